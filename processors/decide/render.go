package decide

import (
	"fmt"
	"io"
	"strings"
)

// Render writes a table as text: its steps, its rows, and the facts that it rests on.
func Render(w io.Writer, t *Table) error {
	p := printer{w: w}
	name := string(t.Kind)
	if name == "" {
		name = "WATCH"
	}
	p.printf("%s\n  %s\n", name, t.Doc)
	if t.Deadline > 0 {
		p.printf("  deadline %s, retries %d", t.Deadline, t.Retries)
		if t.Exclusive {
			p.printf(", not pre-empted by a failover")
		}
		p.printf("\n")
	}
	for _, s := range t.Steps {
		p.printf("\n  step %s", s.Name)
		if s.Deadline > 0 {
			p.printf(" (%s)", s.Deadline)
		}
		p.printf(": %s\n", s.Doc)
		for i := range t.Rows {
			if t.Rows[i].Step == s.Name {
				p.row(&t.Rows[i])
			}
		}
	}
	p.printf("\n  facts\n")
	for _, f := range t.Facts() {
		p.printf("    %-14s %s\n", f.Name, f.Doc)
	}
	return p.err
}

// Facts returns the facts that the rows of a table ask for, in order of appearance.
func (t *Table) Facts() []*Fact {
	var facts []*Fact
	seen := map[*Fact]bool{}
	for _, row := range t.Rows {
		for _, c := range row.If {
			if !seen[c.Fact] {
				seen[c.Fact] = true
				facts = append(facts, c.Fact)
			}
		}
	}
	return facts
}

type printer struct {
	w   io.Writer
	err error
}

func (p *printer) printf(format string, args ...any) {
	if p.err == nil {
		_, p.err = fmt.Fprintf(p.w, format, args...)
	}
}

func (p *printer) row(row *Row) {
	conditions := make([]string, 0, len(row.If))
	for _, c := range row.If {
		if c.Want {
			conditions = append(conditions, c.Fact.Name)
		} else {
			conditions = append(conditions, "not "+c.Fact.Name)
		}
	}
	actions := make([]string, 0, len(row.Do))
	for _, a := range row.Do {
		actions = append(actions, a.Name)
	}
	if len(actions) == 0 {
		actions = append(actions, "nothing")
	}
	next := "stay"
	switch {
	case row.End != "":
		next = "end " + string(row.End)
	case row.Next != "":
		next = "on to " + string(row.Next)
	}
	p.printf("    %-4s if %s\n         do %s; %s\n         because %s\n", row.ID, strings.Join(conditions, ", "), strings.Join(actions, "; "), next, row.Why)
}
