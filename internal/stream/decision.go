package stream

import (
	"fmt"
	"slices"
	"time"
)

// evidence is what is known about a task after its assignment, before anything is done about it.
type evidence struct {
	def  *Definition
	task int32
	now  time.Time
	// p is the position record in the store; nil if there is none.
	p *Position
	// k is what the group has committed.
	k commits
	// changelog and s describe S; zero if the processor has none.
	changelog TopicInfo
	s         Watermarks
	// inputs describe the task's input partitions.
	inputs map[topicPartition]inputEvidence
}

type inputEvidence struct {
	info  TopicInfo
	marks Watermarks
	// table is the table that is redone from it; empty if none.
	table string
}

// plan is what has to be done before the task can run.
type plan struct {
	// out is K.out: what the changelog must have been applied to at least.
	out int64
	// redoFrom is the offset of S from which its records are applied to the changelog's table.
	redoFrom int64
	// rebuild are the tables to be built beside and swapped in, because what they hold cannot be brought up to date.
	rebuild map[string]bool
	// lost says that the group's position is gone although S has data: S is read from its start, and the positions of the
	// inputs are found from the origins in it.
	lost bool
	// offsets are where the inputs go on.
	offsets map[topicPartition]int64
	// tableFrom are the offsets of the inputs from which their tables are redone, up to offsets.
	tableFrom map[topicPartition]int64
	// streamTime is the highest that anybody noted.
	streamTime time.Time
	// warnings are for the log.
	warnings []string
}

// decide compares P, K and the topics. It is the table of DESIGN's "On assignment", as a plain function:
//
//	| found                                            | done                                                        |
//	|--------------------------------------------------|-------------------------------------------------------------|
//	| id of S or of an input is not the noted one      | refuse                                                      |
//	| fold version noted above the program's           | refuse                                                      |
//	| P.out > K.out                                    | refuse: the store is ahead of the group                     |
//	| K.out above the end of S, or an offset above the | refuse: the log lost its end                                |
//	|   end of its input                               |                                                             |
//	| P.out = K.out                                    | run                                                         |
//	| P.out < K.out, P younger than delete.retention   | redo S from P.out                                           |
//	| P.out < K.out, P older                           | rebuild the table beside, swap                              |
//	| no P                                             | redo S from its start                                       |
//	| no K, S was written to                           | rebuild; inputs go on where the origins in S say, else from |
//	|                                                  |   P, else from their start                                  |
//	| no K, S never written to                         | run from the start of the inputs                            |
//	| K lacks one input                                | it is newly declared: from its start                        |
//	| an offset below the start of its input           | from the start, with a warning                              |
//
// "Run" reads S from P.out to its end as well: nothing but markers is there, unless a broker that is not atomic died inside of a
// commit, or a stranger wrote; then the state is what S says.
func decide(e evidence) (plan, error) {
	if err := e.refusals(); err != nil {
		return plan{}, err
	}
	pl := plan{rebuild: map[string]bool{}, offsets: map[topicPartition]int64{}, tableFrom: map[topicPartition]int64{}}
	if e.k.meta != nil {
		pl.out, pl.streamTime = e.k.meta.Out, e.k.meta.StreamTime
	}
	if e.p != nil && e.p.StreamTime.After(pl.streamTime) {
		pl.streamTime = e.p.StreamTime
	}
	pl.lost = e.lost()
	e.planChangelog(&pl)
	e.planInputs(&pl)
	return pl, nil
}

func (e *evidence) hasChangelog() bool { return e.def.Changelog != "" }

// lost reports whether the group's position is gone while S has been written to.
func (e *evidence) lost() bool { return e.hasChangelog() && e.k.meta == nil && e.s.High > 0 }

func (e *evidence) refuse(choices []string, format string, args ...any) error {
	return &Refusal{Processor: e.def.Name, Task: e.task, Problem: fmt.Sprintf(format, args...), Choices: choices}
}

func (e *evidence) refusals() error {
	if err := e.refuseTopics(); err != nil {
		return err
	}
	var noted int32
	if e.p != nil {
		noted = e.p.FoldVersion
	}
	if e.k.meta != nil {
		noted = max(noted, e.k.meta.FoldVersion)
	}
	if noted > e.def.FoldVersion {
		return e.refuse([]string{choiceUpgrade, choiceNewGroup},
			"its state was folded by version %d, this program folds version %d and would read it wrongly", noted, e.def.FoldVersion)
	}
	return e.refuseOffsets()
}

// refuseTopics refuses topics that were made anew: offsets of the old ones mean nothing in them.
func (e *evidence) refuseTopics() error {
	choices := []string{choiceRestore, choiceNewGroup}
	if e.hasChangelog() {
		if e.k.meta != nil && e.k.meta.Changelog != e.changelog.ID {
			return e.refuse(choices, "the group's position belongs to a changelog %q with the topic id %x, the topic has %x now",
				e.def.Changelog, e.k.meta.Changelog, e.changelog.ID)
		}
		if e.p != nil && e.p.Changelog != e.changelog.ID {
			return e.refuse(choices, "the state in the store belongs to a changelog %q with the topic id %x, the topic has %x now",
				e.def.Changelog, e.p.Changelog, e.changelog.ID)
		}
	}
	for tp, in := range e.inputs {
		if e.p == nil {
			break
		}
		if noted, ok := e.p.input(tp); ok && noted.TopicID != in.info.ID {
			return e.refuse(choices, "the state in the store belongs to an input %q with the topic id %x, the topic has %x now",
				tp.Topic, noted.TopicID, in.info.ID)
		}
	}
	return nil
}

// refuseOffsets refuses positions beyond what exists.
func (e *evidence) refuseOffsets() error {
	var kOut int64
	if e.k.meta != nil {
		kOut = e.k.meta.Out
	}
	limit, limiter := kOut, "the group's position"
	if e.lost() {
		limit, limiter = e.s.High, "the changelog's end"
	}
	if e.p != nil && e.p.Out > limit {
		return e.refuse([]string{choiceRebuild, choiceRestore},
			"the store contains the changelog up to offset %d, %s is %d; either the store is another history's, or the brokers lost data",
			e.p.Out, limiter, limit)
	}
	if e.hasChangelog() && kOut > e.s.High {
		return e.refuse([]string{choiceRestore, choiceNewGroup},
			"the group's position says that the changelog was written up to offset %d, but it ends at %d: the brokers lost data", kOut, e.s.High)
	}
	for tp, offset := range e.k.offsets {
		if in, ok := e.inputs[tp]; ok && offset > in.marks.High {
			return e.refuse([]string{choiceRestore, choiceOffsets},
				"the group's offset of input %s/%d is %d, but the input ends at %d: the brokers lost data",
				tp.Topic, tp.Partition, offset, in.marks.High)
		}
	}
	return nil
}

// kept reports whether the store holds the named table.
func (e *evidence) kept(table string) bool { return e.p != nil && slices.Contains(e.p.Tables, table) }

// stale reports whether tombstones that the position has not seen may be gone by now.
func (e *evidence) stale(retention time.Duration) bool {
	return e.p != nil && e.now.Sub(e.p.StampedAt) > retention
}

func (e *evidence) planChangelog(pl *plan) {
	name := e.def.changelogTable()
	if !e.hasChangelog() || name == "" {
		pl.redoFrom = pl.out
		if pl.lost {
			pl.redoFrom = 0
		}
		return
	}
	switch {
	case pl.lost:
		pl.rebuild[name] = true
	case !e.kept(name):
		pl.redoFrom = 0
	case e.p.Out < pl.out && e.stale(e.changelog.DeleteRetention):
		pl.rebuild[name] = true
		pl.warnings = append(pl.warnings, fmt.Sprintf(
			"the store's position is older than the changelog keeps tombstones (%s), table %q is rebuilt", e.changelog.DeleteRetention, name))
	default:
		pl.redoFrom = e.p.Out
	}
}

func (e *evidence) planInputs(pl *plan) {
	for tp, in := range e.inputs {
		offset, ok := e.k.offsets[tp]
		switch {
		case ok && offset < in.marks.Start:
			pl.warnings = append(pl.warnings, fmt.Sprintf("input %s/%d starts at %d by now: the records from %d on expired unread",
				tp.Topic, tp.Partition, in.marks.Start, offset))
			offset = in.marks.Start
		case ok:
		case pl.lost && e.p != nil:
			noted, _ := e.p.input(tp)
			offset = max(noted.Next, in.marks.Start)
		default:
			offset = in.marks.Start
		}
		pl.offsets[tp] = offset
		if in.table == "" {
			continue
		}
		from := int64(0)
		if e.kept(in.table) {
			if noted, ok := e.p.input(tp); ok {
				from = noted.Next
			}
			if from < offset && e.stale(in.info.DeleteRetention) {
				pl.rebuild[in.table] = true
			}
		}
		pl.tableFrom[tp] = from
	}
	for tp, in := range e.inputs { // a rebuild concerns all partitions of the table
		if pl.rebuild[in.table] {
			pl.tableFrom[tp] = 0
		}
	}
}
