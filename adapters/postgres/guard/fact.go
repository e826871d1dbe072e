package guard

import (
	"time"

	"github.com/regent-infra/regent/schemas"
)

// Fact is something that happened outside. Times are the agent's own clock unless said otherwise.
//
//sumtype:decl
type Fact interface{ fact() }

// Booted says what the shell found when it started. It is the first fact, and comes once.
type Booted struct {
	At time.Time
	// Data is NONE if there is no data directory or an empty one; anything else leaves what is remembered.
	Data DataStatus
	// SystemIdentifier is that of the data directory, if there is a whole one.
	SystemIdentifier string
	// WalEnd is the end of valid WAL on disk without its term; nil if it could not be found.
	WalEnd *schemas.WalEnd
}

// OrderReceived is one order read from the topic.
type OrderReceived struct {
	Order Order
	// StreamTime is the broker's time now, as far as the agent knows it.
	StreamTime time.Time
	At         time.Time
}

// DoorReached says that an operation waits at a door.
type DoorReached struct {
	Operation uint64
	Door      Door
	At        time.Time
	// Timeline is the one behind the door if it is known: of the primary to attach to, or to be begun by a promotion.
	Timeline int64
	// SystemIdentifier is that of the data directory, where the operation made it.
	SystemIdentifier string
	// LostWrites is what is about to be erased.
	LostWrites *schemas.LostWrites
}

// OperationProgressed says how far an operation is, bytes.
type OperationProgressed struct {
	Operation   uint64
	Done, Total int64
}

// OperationEnded says that an operation is over; nothing of it runs any more.
type OperationEnded struct {
	Operation uint64
	At        time.Time
	// StreamTime is the broker's time now, as far as the agent knows it; orders that waited may have expired.
	StreamTime time.Time
	// Outcome is DONE, FAILED or REFUSED (it met something that the order forbids, and changed nothing).
	Outcome schemas.OrderStatus
	// Message says why, unless it is DONE.
	Message string
	// Up says whether the server runs now.
	Up bool
	// WalEnd is the end of valid WAL without its term; nil if WAL may be written, or it could not be found.
	WalEnd *schemas.WalEnd
}

// PostmasterChanged says that the server's main process came to another state in the course of an operation.
type PostmasterChanged struct {
	Status schemas.PostmasterStatus
	At     time.Time
	// Exit is how it ended, if it did.
	Exit *schemas.PostmasterExit
}

// PostmasterExited says that the server ended without being asked to, and that no process of it is left.
type PostmasterExited struct {
	Exit schemas.PostmasterExit
	// WalEnd is the end of valid WAL without its term; nil if it could not be found.
	WalEnd *schemas.WalEnd
}

// WalEndFound says where valid WAL ends on the disk of a server that has ended by itself.
type WalEndFound struct{ WalEnd schemas.WalEnd }

// Looked says that a [Look] is over.
type Looked struct {
	// Order is the one that asked for it.
	Order Order
	At    time.Time
}

// RestartDue says that the time of a [RestartLater] is up.
type RestartDue struct{ At time.Time }

// TimelineSeen says that a receiver streams a timeline from the primary of the present term.
type TimelineSeen struct {
	Term, Timeline int64
}

// SequenceReserved says that envelope sequences below Limit are about to be used.
type SequenceReserved struct{ Limit int64 }

// Ticked says that time has passed: what could not be written down is tried again.
type Ticked struct{ At time.Time }

// PersistFailed says that the durable state could not be written, so the step that asked for it must not happen. Fact is what had
// been stepped. An order is answered FAILED, an operation turned away from its door; of any other fact what needs no promise is
// taken in, so that a server which died of a full disk is still reported.
type PersistFailed struct {
	Fact Fact
	Err  string
	At   time.Time
}

// ShutdownRequested says that the agent is to end.
type ShutdownRequested struct{ At time.Time }

func (Booted) fact()              {}
func (OrderReceived) fact()       {}
func (DoorReached) fact()         {}
func (OperationProgressed) fact() {}
func (OperationEnded) fact()      {}
func (PostmasterChanged) fact()   {}
func (PostmasterExited) fact()    {}
func (WalEndFound) fact()         {}
func (Looked) fact()              {}
func (RestartDue) fact()          {}
func (TimelineSeen) fact()        {}
func (SequenceReserved) fact()    {}
func (Ticked) fact()              {}
func (PersistFailed) fact()       {}
func (ShutdownRequested) fact()   {}

// Door is a point in an operation that cannot be taken back.
type Door string

// The doors.
const (
	// DoorErase: what is in the data directory becomes unusable.
	DoorErase Door = "ERASE"
	// DoorAttach: a WAL receiver may attach to the operation's upstream.
	DoorAttach Door = "ATTACH"
	// DoorOpen: the server may become writable.
	DoorOpen Door = "OPEN"
)

// Action is work that the shell owes. Actions of one step are carried out in their order.
//
//sumtype:decl
type Action interface{ action() }

// Persist writes the durable state down; nothing after it may happen before it is on disk.
type Persist struct{ Durable Durable }

// Begin starts an operation.
type Begin struct{ Operation Operation }

// Cancel asks an operation to end early. Its end is still reported.
type Cancel struct{ Operation uint64 }

// Proceed lets an operation through the door that it waits at.
type Proceed struct{ Operation uint64 }

// Deny turns an operation away from the door that it waits at; it ends with Why.
type Deny struct {
	Operation uint64
	Why       string
}

// Publish sends the full current value at once.
type Publish struct{}

// Look observes everything at once and then tells [Looked].
type Look struct{ Order Order }

// RestartLater asks for a [RestartDue] after some time.
type RestartLater struct{ After time.Duration }

// Leave ends the agent: everything is down and reported.
type Leave struct{}

func (Persist) action()      {}
func (Begin) action()        {}
func (Cancel) action()       {}
func (Proceed) action()      {}
func (Deny) action()         {}
func (Publish) action()      {}
func (Look) action()         {}
func (RestartLater) action() {}
func (Leave) action()        {}
