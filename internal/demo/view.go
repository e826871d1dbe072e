package demo

import (
	"fmt"
	"io"
	"strings"
	"sync"
	"time"

	tea "charm.land/bubbletea/v2"
	"charm.land/lipgloss/v2"
)

// maxFlow is how many events and narration lines the live view keeps.
const maxFlow = 200

// member is one node as the view shows it.
type member struct {
	name, role, health, liveness, lag, agent string
	timeline, term                           int64
	synchronous                              bool
}

// snapshot is everything that the live view shows.
type snapshot struct {
	phase        string
	controlPlane string
	cluster      string
	members      []member
	commits      int
	rate         float64
	flow         []string
	story        []string
	results      []result
}

// audience is told what happens: by the live view, or line by line.
type audience interface {
	// phase announces the next act.
	phase(title string)
	// say tells one line of the story.
	say(format string, args ...any)
	// event shows one event of the control plane.
	event(line string)
	// topology shows the state of the cluster.
	topology(controlPlane, cluster string, members []member, commits int, rate float64)
	// outcome adds one line to the table of results.
	outcome(r result)
}

// plain writes the story line by line, for logs and for --script.
type plain struct {
	mu    sync.Mutex
	out   io.Writer
	start time.Time
	now   func() time.Time
	// events says whether single events are printed.
	events bool
}

func (p *plain) line(format string, args ...any) {
	p.mu.Lock()
	defer p.mu.Unlock()
	fmt.Fprintf(p.out, "%7.2fs  %s\n", p.now().Sub(p.start).Seconds(), fmt.Sprintf(format, args...))
}

func (p *plain) phase(title string)                              { p.line("== %s", title) }
func (p *plain) say(format string, args ...any)                  { p.line("   "+format, args...) }
func (p *plain) topology(string, string, []member, int, float64) {}
func (p *plain) outcome(r result)                                { p.line("   %s", r) }
func (p *plain) event(line string) {
	if p.events {
		p.line("   | %s", line)
	}
}

// live is the terminal view: topology above, story and events below.
type live struct {
	mu      sync.Mutex
	state   snapshot
	program *tea.Program
}

func newLive(cancel func()) *live {
	l := &live{}
	l.program = tea.NewProgram(model{view: l, cancel: cancel})
	return l
}

// refresh asks the view to draw again.
type refresh struct{}

func (l *live) change(f func(*snapshot)) {
	l.mu.Lock()
	f(&l.state)
	l.mu.Unlock()
	l.program.Send(refresh{})
}

func (l *live) phase(title string) {
	l.change(func(s *snapshot) {
		s.phase = title
		s.story = appendBounded(s.story, "== "+title)
	})
}

func (l *live) say(format string, args ...any) {
	l.change(func(s *snapshot) { s.story = appendBounded(s.story, fmt.Sprintf(format, args...)) })
}

func (l *live) event(line string) {
	l.change(func(s *snapshot) { s.flow = appendBounded(s.flow, line) })
}

func (l *live) topology(controlPlane, cluster string, members []member, commits int, rate float64) {
	l.change(func(s *snapshot) {
		s.controlPlane, s.cluster, s.members, s.commits, s.rate = controlPlane, cluster, members, commits, rate
	})
}

func (l *live) outcome(r result) {
	l.change(func(s *snapshot) { s.results = append(s.results, r) })
}

func appendBounded(lines []string, line string) []string {
	lines = append(lines, strings.Split(line, "\n")...)
	if len(lines) > maxFlow {
		lines = lines[len(lines)-maxFlow:]
	}
	return lines
}

// model adapts the live view to bubbletea.
type model struct {
	view          *live
	cancel        func()
	width, height int
}

// Init implements tea.Model.
func (m model) Init() tea.Cmd { return nil }

// Update implements tea.Model.
func (m model) Update(msg tea.Msg) (tea.Model, tea.Cmd) {
	switch msg := msg.(type) {
	case tea.WindowSizeMsg:
		m.width, m.height = msg.Width, msg.Height
	case tea.KeyPressMsg:
		switch msg.String() {
		case "q", "ctrl+c", "esc":
			m.cancel()
			return m, tea.Quit
		}
	}
	return m, nil
}

var (
	title  = lipgloss.NewStyle().Bold(true)
	faint  = lipgloss.NewStyle().Faint(true)
	good   = lipgloss.NewStyle().Foreground(lipgloss.Color("2"))
	warn   = lipgloss.NewStyle().Foreground(lipgloss.Color("3"))
	bad    = lipgloss.NewStyle().Foreground(lipgloss.Color("1"))
	border = lipgloss.NewStyle().Border(lipgloss.RoundedBorder()).BorderForeground(lipgloss.Color("8")).Padding(0, 1)
)

// View implements tea.Model.
func (m model) View() tea.View {
	m.view.mu.Lock()
	content := render(m.view.state, max(m.width, 80), max(m.height, 24))
	m.view.mu.Unlock()
	v := tea.NewView(content)
	v.AltScreen = true
	v.WindowTitle = "regent demo"
	return v
}

// render draws the snapshot into width by height cells.
func render(s snapshot, width, height int) string {
	var top strings.Builder
	fmt.Fprintf(&top, "%s  %s\n", title.Render("regent demo"), s.phase)
	fmt.Fprintf(&top, "control plane %s   cluster %s   commits %d (%.0f/s)\n\n", tint(s.controlPlane), tint(s.cluster), s.commits, s.rate)
	fmt.Fprintf(&top, "%s\n", faint.Render(fmt.Sprintf("%-6s %-9s %-5s %-9s %-9s %3s %5s %10s  %s", "NODE", "ROLE", "SYNC", "HEALTH", "LIVENESS", "TL", "TERM", "LAG", "AGENT")))
	for _, n := range s.members {
		sync := ""
		if n.synchronous {
			sync = "yes"
		}
		fmt.Fprintf(&top, "%-6s %-9s %-5s %s %s %3d %5d %10s  %s\n", n.name, n.role, sync,
			tint(fmt.Sprintf("%-9s", n.health)), tint(fmt.Sprintf("%-9s", n.liveness)), n.timeline, n.term, n.lag, tint(n.agent))
	}
	var bottom strings.Builder
	for _, r := range s.results {
		fmt.Fprintln(&bottom, r.tinted())
	}
	help := faint.Render("q quits and removes everything")

	upper := border.Width(width).Render(strings.TrimRight(top.String(), "\n"))
	lower := strings.TrimRight(bottom.String(), "\n")
	room := max(height-lipgloss.Height(upper)-lipgloss.Height(lower)-4, 6)
	half := (width - 2) / 2
	left := border.Width(half).Height(room).Render(last(s.story, room-2, half-4))
	right := border.Width(half).Height(room).Render(last(s.flow, room-2, half-4))
	parts := []string{upper, lipgloss.JoinHorizontal(lipgloss.Top, left, right)}
	if lower != "" {
		parts = append(parts, lower)
	}
	return strings.Join(append(parts, help), "\n")
}

// last returns the last n lines, each cut to width cells.
func last(lines []string, n, width int) string {
	if n < 1 {
		return ""
	}
	if len(lines) > n {
		lines = lines[len(lines)-n:]
	}
	cut := make([]string, len(lines))
	for i, l := range lines {
		cut[i] = lipgloss.NewStyle().MaxWidth(max(width, 1)).Render(l)
	}
	return strings.Join(cut, "\n")
}

// tint colours a word by what it says.
func tint(word string) string {
	switch strings.TrimSpace(word) {
	case "HEALTHY", "ALIVE", "running":
		return good.Render(word)
	case "DEGRADED", "SUSPECT", "recovering":
		return warn.Render(word)
	case "DOWN", "killed", "UNKNOWN":
		return bad.Render(word)
	default:
		return word
	}
}
