package report

import (
	"fmt"
	"html"
	"io"
	"math"
	"strings"
)

// Chart is one drawing of the report.
type Chart struct {
	// Name is a file name without its ending.
	Name string
	draw func(w io.Writer) error
}

// SVG writes the chart as a picture that needs nothing else.
func (c *Chart) SVG(w io.Writer) error { return c.draw(w) }

// Charts returns a chart for each number of each table: a bar for each contender's median, a whisker from the lowest to the highest round.
func (r *Report) Charts() []Chart {
	var out []Chart
	for _, t := range r.tables() {
		for _, name := range t.names {
			b := t.bars(name)
			if len(b.bars) == 0 {
				continue
			}
			out = append(out, Chart{Name: fileName(b.title), draw: b.svg})
		}
	}
	return out
}

// fileName keeps letters, digits and dots.
func fileName(title string) string {
	var b strings.Builder
	for _, r := range strings.ToLower(title) {
		switch {
		case r >= 'a' && r <= 'z', r >= '0' && r <= '9', r == '.':
			b.WriteRune(r)
		case r == ',' || r == '%':
		default:
			b.WriteByte('-')
		}
	}
	return b.String()
}

// bars is a chart of horizontal bars.
type bars struct {
	title, unit string
	bars        []bar
}

type bar struct {
	label string
	Summary
}

func (t *table) bars(name cell) *bars {
	b := &bars{title: t.group.title() + ", " + name.name, unit: name.unit}
	for _, c := range t.contenders {
		if s, ok := t.summary(c, name); ok {
			b.bars = append(b.bars, bar{c, s})
		}
	}
	return b
}

// Measures of a chart, in the units of its view box.
const (
	chartWidth  = 720
	labelWidth  = 120
	valueWidth  = 110
	barHeight   = 22
	barGap      = 10
	titleHeight = 34
	axisHeight  = 34
)

func (b *bars) svg(w io.Writer) error {
	top := 0.0
	for _, x := range b.bars {
		top = math.Max(top, x.Max)
	}
	step := tick(top)
	top = math.Max(step, math.Ceil(top/step)*step)
	height := titleHeight + len(b.bars)*(barHeight+barGap) + axisHeight
	plot := float64(chartWidth - labelWidth - valueWidth)
	x := func(v float64) float64 { return labelWidth + v/top*plot }

	var s strings.Builder
	fmt.Fprintf(&s, `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %d %d" font-family="sans-serif" font-size="12">`+"\n", chartWidth, height)
	fmt.Fprintf(&s, `<rect width="%d" height="%d" fill="#ffffff"/>`+"\n", chartWidth, height)
	fmt.Fprintf(&s, `<text x="8" y="20" font-size="14" font-weight="bold" fill="#222222">%s</text>`+"\n", html.EscapeString(b.title))
	bottom := height - axisHeight
	for v := 0.0; v <= top*(1+1e-9); v += step {
		fmt.Fprintf(&s, `<line x1="%.1f" y1="%d" x2="%.1f" y2="%d" stroke="#dddddd"/>`+"\n", x(v), titleHeight-4, x(v), bottom)
		fmt.Fprintf(&s, `<text x="%.1f" y="%d" text-anchor="middle" fill="#555555">%s</text>`+"\n", x(v), bottom+14, axis(v))
	}
	fmt.Fprintf(&s, `<text x="%.1f" y="%d" text-anchor="middle" fill="#555555">%s</text>`+"\n", labelWidth+plot/2, bottom+29, html.EscapeString(b.unit))
	for i, one := range b.bars {
		y := titleHeight + i*(barHeight+barGap)
		middle := y + barHeight/2
		fill := "#8a9bb0"
		if one.label == "regent" {
			fill = "#1f6fb2"
		}
		fmt.Fprintf(&s, `<text x="%d" y="%d" text-anchor="end" fill="#222222">%s</text>`+"\n", labelWidth-8, middle+4, html.EscapeString(one.label))
		fmt.Fprintf(&s, `<rect x="%d" y="%d" width="%.1f" height="%d" fill="%s"/>`+"\n", labelWidth, y, x(one.Median)-labelWidth, barHeight, fill)
		if one.Rounds > 1 {
			fmt.Fprintf(&s, `<path d="M%.1f %dV%dM%.1f %dH%.1fM%.1f %dV%d" stroke="#222222" fill="none"/>`+"\n",
				x(one.Min), middle-5, middle+5, x(one.Min), middle, x(one.Max), x(one.Max), middle-5, middle+5)
		}
		fmt.Fprintf(&s, `<text x="%.1f" y="%d" fill="#222222">%s</text>`+"\n", x(one.Max)+8, middle+4, number(one.Median))
	}
	s.WriteString("</svg>\n")
	_, err := io.WriteString(w, s.String())
	return err
}

// tick returns a round number of which three to seven fit below top.
func tick(top float64) float64 {
	if top <= 0 {
		return 1
	}
	unit := math.Pow(10, math.Floor(math.Log10(top/3)))
	for _, m := range []float64{1, 2, 5} {
		if top/(unit*m) <= 7 {
			return unit * m
		}
	}
	return unit * 10
}

// axis writes a mark of the axis as short as it can be.
func axis(v float64) string {
	if v >= 1000 {
		return thousands(v)
	}
	return fmt.Sprintf("%.4g", v)
}
