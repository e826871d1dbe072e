package wal

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// PlaceholderReason is the text in a history file that stands for a timeline id which was given to nobody: it only makes
// PostgreSQL choose a higher one. Such a file describes no real timeline.
const PlaceholderReason = "placeholder: this timeline id was skipped by regent and never used"

// placeholderEnd is the fork point inside placeholders. It must lie before any recovery point: a standby that follows the latest
// timeline would otherwise take the placeholder for its future and switch to it.
const placeholderEnd LSN = 1

// maxHistorySize bounds what is read as a history file: a line takes some 60 bytes, so this is over 100,000 failovers.
const maxHistorySize = 8 << 20

// Branch says that Timeline was left at End for the next one in the history.
type Branch struct {
	Timeline Timeline `json:"timeline"`
	// End is the switch point: the first byte that is no longer Timeline's.
	End LSN `json:"end"`
	// Reason is PostgreSQL's free text ("no recovery target specified").
	Reason string `json:"reason,omitempty"`
}

// History is a timeline with its ancestors, oldest first: the content of a history file plus the timeline's own id.
type History struct {
	Timeline  Timeline `json:"timeline"`
	Ancestors []Branch `json:"ancestors,omitempty"`
}

// ParseHistory reads a history file of timeline t as PostgreSQL does (timeline.c, readTimeLineHistory): one line per
// ancestor, "id TAB lsn TAB reason"; empty lines and those that begin with # are skipped; ids must rise, and the last be below t.
func ParseHistory(t Timeline, content []byte) (History, error) {
	h := History{Timeline: t}
	if t == 0 {
		return h, errors.New("parse timeline history: timeline id 0 does not exist")
	}
	if len(content) > maxHistorySize {
		return h, fmt.Errorf("parse history of timeline %d: %d bytes is over the limit of %d", t, len(content), maxHistorySize)
	}
	for i, line := range strings.Split(string(content), "\n") {
		line = strings.TrimSpace(line)
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		branch, err := parseBranch(line)
		if err != nil {
			return h, fmt.Errorf("parse history of timeline %d, line %d: %w", t, i+1, err)
		}
		if n := len(h.Ancestors); n > 0 && h.Ancestors[n-1].Timeline >= branch.Timeline {
			return h, fmt.Errorf("parse history of timeline %d, line %d: timeline ids must rise, %d follows %d",
				t, i+1, branch.Timeline, h.Ancestors[n-1].Timeline)
		}
		if branch.Timeline >= t {
			return h, fmt.Errorf("parse history of timeline %d, line %d: an ancestor's id must be below the timeline's own, got %d",
				t, i+1, branch.Timeline)
		}
		h.Ancestors = append(h.Ancestors, branch)
	}
	return h, nil
}

func parseBranch(line string) (Branch, error) {
	fields := strings.Fields(line)
	if len(fields) < 2 {
		return Branch{}, fmt.Errorf("expected a timeline id and a switch point, got %q", line)
	}
	id, err := strconv.ParseUint(fields[0], 10, 32)
	if err != nil || id == 0 {
		return Branch{}, fmt.Errorf("expected a numeric timeline id, got %q", fields[0])
	}
	end, err := ParseLSN(fields[1])
	if err != nil {
		return Branch{}, err
	}
	return Branch{Timeline: Timeline(id), End: end, Reason: strings.Join(fields[2:], " ")}, nil
}

// Format writes the history as PostgreSQL does; ParseHistory(h.Timeline, h.Format()) yields h again.
func (h History) Format() []byte {
	var b strings.Builder
	for _, a := range h.Ancestors {
		fmt.Fprintf(&b, "%d\t%s\t%s\n", a.Timeline, a.End, a.Reason)
	}
	return []byte(b.String())
}

// Placeholder returns the content of a history file for a timeline id below which PostgreSQL must not choose.
func Placeholder() []byte {
	return History{Ancestors: []Branch{{Timeline: 1, End: placeholderEnd, Reason: PlaceholderReason}}}.Format()
}

// IsPlaceholder says whether the history was written by [Placeholder].
func (h History) IsPlaceholder() bool {
	return len(h.Ancestors) == 1 && h.Ancestors[0].Reason == PlaceholderReason
}

// ReadHistory reads the history of timeline t from a directory (pg_wal). Timeline 1 has no file: its history is empty. A missing
// file of another timeline is an error that wraps fs.ErrNotExist.
func ReadHistory(dir string, t Timeline) (History, error) {
	if t == 1 {
		return History{Timeline: 1}, nil
	}
	path := filepath.Join(dir, t.HistoryName())
	content, err := os.ReadFile(path)
	if err != nil {
		return History{}, fmt.Errorf("read history of timeline %d: %w", t, err)
	}
	return ParseHistory(t, content)
}

// ReadHistories reads all real histories in a directory, by timeline; placeholders are told apart.
func ReadHistories(dir string) (histories map[Timeline]History, placeholders []Timeline, err error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, nil, fmt.Errorf("list timeline histories: %w", err)
	}
	histories = map[Timeline]History{}
	for _, entry := range entries {
		t, ok := ParseHistoryName(entry.Name())
		if !ok {
			continue
		}
		h, err := ReadHistory(dir, t)
		switch {
		case errors.Is(err, fs.ErrNotExist):
			continue // removed while we read: PostgreSQL removes old histories
		case err != nil:
			return nil, nil, err
		case h.IsPlaceholder():
			placeholders = append(placeholders, t)
		default:
			histories[t] = h
		}
	}
	return histories, placeholders, nil
}

// TimelineAt returns the timeline that byte l belongs to in this history.
func (h History) TimelineAt(l LSN) Timeline {
	for _, a := range h.Ancestors {
		if l < a.End {
			return a.Timeline
		}
	}
	return h.Timeline
}

// EndOf returns where timeline t was left in this history. ok is false if t is not part of it; for the history's own timeline
// the end is open: the greatest LSN.
func (h History) EndOf(t Timeline) (end LSN, ok bool) {
	if t == h.Timeline {
		return ^LSN(0), true
	}
	for _, a := range h.Ancestors {
		if a.Timeline == t {
			return a.End, true
		}
	}
	return 0, false
}

// BeginOf returns where timeline t begins in this history: the switch point of the one before it, 0 for the first.
func (h History) BeginOf(t Timeline) (begin LSN, ok bool) {
	for _, a := range h.Ancestors {
		if a.Timeline == t {
			return begin, true
		}
		begin = a.End
	}
	return begin, t == h.Timeline
}

// Contains says whether WAL that ends at l and was written on timeline t is part of this history: t is in it, and was left at l
// or later. A server with this history can then be followed from there, without loss and without rewinding.
func (h History) Contains(t Timeline, l LSN) bool {
	end, ok := h.EndOf(t)
	return ok && l <= end
}

// Relation is how two histories stand to each other.
type Relation uint8

// The relations of [Compare].
const (
	// RelationSame: identical histories.
	RelationSame Relation = iota + 1
	// RelationAncestor: the first is a past of the second, which has left it by a switch.
	RelationAncestor
	// RelationDescendant: the second is a past of the first.
	RelationDescendant
	// RelationDiverged: both have gone on from a common point, on different ways.
	RelationDiverged
	// RelationUnrelated: nothing in common, not even the first timeline.
	RelationUnrelated
)

// String names the relation.
func (r Relation) String() string {
	switch r {
	case RelationSame:
		return "same"
	case RelationAncestor:
		return "ancestor"
	case RelationDescendant:
		return "descendant"
	case RelationDiverged:
		return "diverged"
	case RelationUnrelated:
		return "unrelated"
	default:
		return fmt.Sprintf("Relation(%d)", uint8(r))
	}
}

// Fork is the last common point of two histories.
type Fork struct {
	Relation Relation `json:"relation"`
	// Timeline is the last common timeline; 0 if unrelated.
	Timeline Timeline `json:"timeline"`
	// LSN is where they part: both contain everything before it. For equal histories it is the greatest LSN.
	LSN LSN `json:"lsn"`
}

// Compare finds the fork of two histories by their contents. Two timelines with one id but different pasts have not the same
// id by anything but accident, and are told apart here as far as their contents differ.
func Compare(a, b History) Fork {
	wayA, wayB := a.way(), b.way()
	var common Branch
	n := 0
	for n < len(wayA) && n < len(wayB) && wayA[n].Timeline == wayB[n].Timeline {
		common = Branch{Timeline: wayA[n].Timeline, End: min(wayA[n].End, wayB[n].End)}
		n++
		if wayA[n-1].End != wayB[n-1].End {
			break
		}
	}
	fork := Fork{Timeline: common.Timeline, LSN: common.End}
	lastA, lastB := n == len(wayA), n == len(wayB)
	switch {
	case n == 0:
		fork.Relation = RelationUnrelated
	case lastA && lastB:
		fork.Relation = RelationSame
	case lastA:
		fork.Relation = RelationAncestor
	case lastB:
		fork.Relation = RelationDescendant
	default:
		fork.Relation = RelationDiverged
	}
	return fork
}

// way lists the timelines with their ends, the history's own last with an open end.
func (h History) way() []Branch {
	way := make([]Branch, 0, len(h.Ancestors)+1)
	way = append(way, h.Ancestors...)
	return append(way, Branch{Timeline: h.Timeline, End: ^LSN(0)})
}
