package main

import (
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"charm.land/lipgloss/v2"
	"github.com/spf13/cobra"
	"go.yaml.in/yaml/v3"

	"github.com/regent-infra/regent/internal/telemetry"
	"github.com/regent-infra/regent/schemas"
)

// Output formats.
const (
	formatTable = "table"
	formatWide  = "wide"
	formatJSON  = "json"
	formatYAML  = "yaml"
)

var formats = []string{formatTable, formatWide, formatJSON, formatYAML}

// output is how a command writes its result.
type output struct {
	format string
	out    io.Writer
	style  style
}

// addOutput adds -o to a command.
func (a *app) addOutput(cmd *cobra.Command, format *string) {
	cmd.Flags().StringVarP(format, "output", "o", formatTable, "output format: "+strings.Join(formats, ", "))
	_ = cmd.RegisterFlagCompletionFunc("output", cobra.FixedCompletions(formats, cobra.ShellCompDirectiveNoFileComp)) // fails only for an unknown flag
}

func (a *app) output(format string) (*output, error) {
	if !slices.Contains(formats, format) {
		return nil, usagef("-o %s: unknown output format, expected one of %s", format, strings.Join(formats, ", "))
	}
	return &output{format: format, out: a.env.Stdout, style: a.style()}, nil
}

// structured writes v as JSON or YAML and reports true, or reports false for the formats of people.
func (o *output) structured(v any) (bool, error) {
	switch o.format {
	case formatJSON:
		e := json.NewEncoder(o.out)
		e.SetIndent("", "  ")
		return true, e.Encode(v)
	case formatYAML:
		raw, err := toYAML(v)
		if err != nil {
			return true, err
		}
		_, err = o.out.Write(raw)
		return true, err
	default:
		return false, nil
	}
}

// toYAML goes through JSON, so that both formats have the same fields.
func toYAML(v any) ([]byte, error) {
	raw, err := json.Marshal(v)
	if err != nil {
		return nil, err
	}
	// JSON is YAML: its node tree keeps the order of the fields.
	var tree yaml.Node
	if err := yaml.Unmarshal(raw, &tree); err != nil {
		return nil, err
	}
	blockStyle(&tree)
	return yaml.Marshal(&tree)
}

func blockStyle(n *yaml.Node) {
	if n.Kind == yaml.MappingNode || n.Kind == yaml.SequenceNode {
		n.Style = 0
	}
	if n.Kind == yaml.ScalarNode && n.Style == yaml.DoubleQuotedStyle {
		n.Style = 0
		n.SetString(n.Value)
	}
	for _, child := range n.Content {
		blockStyle(child)
	}
}

// style colours text, or leaves it as it is.
type style struct{ color bool }

func (a *app) style() style {
	_, no := a.lookupEnv("NO_COLOR")
	term, _ := a.lookupEnv("TERM")
	return style{color: !a.noColor && !no && term != "dumb" && telemetry.IsTerminal(a.env.Stdout)}
}

func (s style) render(st lipgloss.Style, text string) string {
	if !s.color || text == "" {
		return text
	}
	return st.Render(text)
}

var (
	bold   = lipgloss.NewStyle().Bold(true)
	faint  = lipgloss.NewStyle().Faint(true)
	green  = lipgloss.NewStyle().Foreground(lipgloss.Color("2"))
	yellow = lipgloss.NewStyle().Foreground(lipgloss.Color("3"))
	red    = lipgloss.NewStyle().Foreground(lipgloss.Color("1")).Bold(true)
)

func (s style) bold(text string) string  { return s.render(bold, text) }
func (s style) faint(text string) string { return s.render(faint, text) }

// health colours by a health, a status or a state.
func (s style) health(word string) string {
	switch strings.ToUpper(word) {
	case string(schemas.HealthHealthy), "ALIVE", "RUNNING", "SUCCEEDED", "READY", "STREAMING", "OK", "DONE":
		return s.render(green, word)
	case string(schemas.HealthDegraded), "WARNING", "PENDING", "STARTING", "STOPPING", "REINSTATED", "STOPPED":
		return s.render(yellow, word)
	case string(schemas.HealthDown), "SUSPECT", "CRASHED", "FAILED", "TIMED_OUT", "REJECTED", "NOT_READY", "FAULT":
		return s.render(red, word)
	default:
		return word
	}
}

// table is rows under a header, columns padded to their widest cell.
type table struct {
	header []string
	rows   [][]string
	// right are the columns that are aligned to the right.
	right []int
}

func (t *table) add(cells ...string) { t.rows = append(t.rows, cells) }

// width counts what a terminal shows: no colour codes.
func width(cell string) int {
	if strings.IndexByte(cell, 0x1b) < 0 {
		return utf8.RuneCountInString(cell)
	}
	return lipgloss.Width(cell)
}

func (t *table) widths() []int {
	widths := make([]int, len(t.header))
	for i, h := range t.header {
		widths[i] = width(h)
	}
	for _, row := range t.rows {
		for i, cell := range row {
			widths[i] = max(widths[i], width(cell))
		}
	}
	return widths
}

func (t *table) cell(i int, cell string, w int) string {
	pad := strings.Repeat(" ", w-width(cell))
	if slices.Contains(t.right, i) {
		return pad + cell
	}
	return cell + pad
}

// print writes the table without lines, as kubectl does.
func (t *table) print(o *output) {
	widths := t.widths()
	line := func(cells []string, dress func(string) string) {
		parts := make([]string, len(cells))
		for i, cell := range cells {
			parts[i] = t.cell(i, cell, widths[i])
		}
		fmt.Fprintln(o.out, dress(strings.TrimRight(strings.Join(parts, "  "), " ")))
	}
	line(t.header, o.style.bold)
	for _, row := range t.rows {
		line(row, func(s string) string { return s })
	}
}

// printBoxed writes the table with lines, as Patroni does; title stands in the top line.
func (t *table) printBoxed(o *output, title string) {
	widths := t.widths()
	rule := func(text string) string {
		parts := make([]string, len(widths))
		for i, w := range widths {
			parts[i] = strings.Repeat("-", w+2)
		}
		full := []rune("+" + strings.Join(parts, "+") + "+")
		if text != "" {
			insert := []rune(" " + text + " ")
			for len(full) < len(insert)+4 {
				full = append(full[:len(full)-1], '-', '+')
			}
			copy(full[2:], insert)
		}
		return string(full)
	}
	line := func(cells []string) {
		parts := make([]string, len(cells))
		for i, cell := range cells {
			parts[i] = " " + t.cell(i, cell, widths[i]) + " "
		}
		fmt.Fprintln(o.out, "|"+strings.Join(parts, "|")+"|")
	}
	fmt.Fprintln(o.out, rule(title))
	line(t.header)
	fmt.Fprintln(o.out, rule(""))
	for _, row := range t.rows {
		line(row)
	}
	fmt.Fprintln(o.out, rule(""))
}

// age says how long ago t was, in at most two units.
func age(now, t time.Time) string {
	if t.IsZero() {
		return "-"
	}
	return short(now.Sub(t))
}

// short writes a duration in at most two units.
func short(d time.Duration) string {
	d = max(d, 0)
	switch {
	case d < time.Second:
		return fmt.Sprintf("%dms", d.Milliseconds())
	case d < time.Minute:
		return fmt.Sprintf("%ds", int(d.Seconds()))
	case d < time.Hour:
		return fmt.Sprintf("%dm%02ds", int(d.Minutes()), int(d.Seconds())%60)
	case d < 48*time.Hour:
		return fmt.Sprintf("%dh%02dm", int(d.Hours()), int(d.Minutes())%60)
	default:
		return fmt.Sprintf("%dd%02dh", int(d.Hours())/24, int(d.Hours())%24)
	}
}

// sizeText writes a size with a binary unit.
func sizeText(n int64) string {
	const unit = 1024
	if n < unit {
		return fmt.Sprintf("%d B", n)
	}
	value, suffix := float64(n)/unit, "KiB"
	for _, next := range []string{"MiB", "GiB", "TiB"} {
		if value < unit {
			break
		}
		value, suffix = value/unit, next
	}
	return fmt.Sprintf("%.1f %s", value, suffix)
}

// lsn writes a WAL position as PostgreSQL does.
func lsn(n int64) string {
	u := uint64(max(n, 0)) //nolint:gosec // clamped to be non-negative
	return fmt.Sprintf("%X/%X", u>>32, u&0xffffffff)
}
