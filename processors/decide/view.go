package decide

import (
	"time"

	"github.com/regent-infra/regent/internal/event"
	"github.com/regent-infra/regent/schemas"
)

// View is everything that may bear on a decision about one cluster. Decide reads it and changes nothing in it.
type View struct {
	// Cluster is the cluster that is decided about.
	Cluster event.ClusterID
	// Now is stream time: the highest broker append time that the task has read.
	Now time.Time
	// Origin is the record that gives rise to the decision. Identifiers derive from it.
	Origin Origin
	// Turn counts the decisions that the record has given rise to before this one, so that each has identifiers of its own.
	Turn int
	// CaughtUp says that the task has read every input to the end it had at assignment. Without it nothing is decided.
	CaughtUp bool
	// Record is the durable desired state; nil for a cluster that nobody has initialised.
	Record *schemas.ClusterRecord
	// Owner is the workflow that Record.ActiveWorkflow names; nil if there is none.
	Owner *schemas.Workflow
	// Checks are the workflows that Record.Checks names, in that order.
	Checks []*schemas.Workflow
	// Nodes are the consolidated states of the cluster's nodes, by name.
	Nodes []*schemas.PostgresNodeState
	// State is the consolidated state of the cluster; nil if there is none yet.
	State *schemas.PostgresClusterState
	// Command is the command that is to be answered; nil if none is.
	Command *Command
}

// Origin is the record that gives rise to a decision.
type Origin struct {
	// Topic, Partition and Offset say where it stands.
	Topic     string
	Partition int32
	Offset    int64
}

// Command is a command as it was read.
type Command struct {
	// ID is its envelope id.
	ID string
	// At is the broker append time of its record.
	At time.Time
	// Origin says where it stands.
	Origin Origin
	// Payload is a pointer to the command record.
	Payload any
	// Earlier is the workflow that carries the same id already; nil if the command is new. One that is PENDING is this command
	// itself, deferred.
	Earlier *schemas.Workflow
}

// Decision is the work owed. All of it takes effect in one transaction, or none of it.
type Decision struct {
	// Record is the new desired state; nil if it is unchanged. Its Sequence is that of its event.
	Record *schemas.ClusterRecord
	// Workflows are those that were started, moved or ended, in order.
	Workflows []WorkflowChange
	// Orders are to be executed by agents, in order.
	Orders []Order
	// Outcomes answer commands, in order.
	Outcomes []Outcome
	// Due is the stream time at which to decide again if nothing happens before; zero if only facts can change anything.
	Due time.Time
}

// Empty reports whether nothing is owed.
func (d *Decision) Empty() bool {
	return d.Record == nil && len(d.Workflows) == 0 && len(d.Orders) == 0 && len(d.Outcomes) == 0
}

// WorkflowChange is the new value of one workflow.
type WorkflowChange struct {
	// ID is the envelope id and Sequence the envelope sequence of its event.
	ID       string
	Sequence int64
	Workflow *schemas.Workflow
}

// Order is one order to one agent.
type Order struct {
	// ID is the envelope id. A promotion that is sent again keeps it.
	ID       string
	Sequence int64
	// Node is the addressee, Workflow the id of the workflow that issues it.
	Node     string
	Workflow string
	// Payload is a pointer to the order record.
	Payload any
}

// Outcome is one answer to a command.
type Outcome struct {
	ID       string
	Sequence int64
	// Command is the id of the command that is answered.
	Command string
	// Payload is a pointer to the outcome record.
	Payload any
}
