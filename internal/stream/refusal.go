package stream

import (
	"fmt"
	"strings"
)

// Refusal says why a task does not start on the state that it found: going on would lose or falsify state, and only a person can
// tell which of the choices is right. Nothing has been changed.
type Refusal struct {
	Processor string
	Task      int32
	// Problem says what was found and what was expected.
	Problem string
	// Choices say what can be done.
	Choices []string
}

// Error implements error.
func (r *Refusal) Error() string {
	return fmt.Sprintf("task %d of processor %q refuses to start: %s; choices: %s",
		r.Task, r.Processor, r.Problem, strings.Join(r.Choices, "; or "))
}

// The choices that refusals name.
const (
	choiceRebuild  = "make the state anew from the changelog: stop the server, regent rebuild"
	choiceRestore  = "restore the topic, or the broker's data, that this state belongs to"
	choiceUpgrade  = "run the newer program again"
	choiceNewGroup = "if the topic was made anew on purpose: remove the state directory and delete the consumer group, and everything is folded from the start of the inputs"
	choiceScratch  = "make the state from the topics alone, without this start"
	choiceOffsets  = "set the group's offset of that partition to one that exists, knowing what is skipped or folded again"
)
