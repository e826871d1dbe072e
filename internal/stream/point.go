package stream

// Point names a place in the cycle at which a process may die. Tests kill it there; see [Options].
type Point string

// The points, in the order of the cycle.
const (
	// PointPolled: records have been read, no transaction is open or ending.
	PointPolled Point = "polled"
	// PointFolding: records are folded and some of their outputs are on the way, nothing is decided.
	PointFolding Point = "folding"
	// PointProduced: the broker has taken every output, no offset is in the transaction.
	PointProduced Point = "produced"
	// PointCommitted: the transaction is committed, the state stands in the dirty set alone.
	PointCommitted Point = "committed"
	// PointFlushing: a generation is about to be written to the store.
	PointFlushing Point = "flushing"
	// PointFlushed: the batch is applied without a sync.
	PointFlushed Point = "flushed"
	// PointRedo: a part of the changelog has been redone.
	PointRedo Point = "redo"
	// PointStandby: a part of what a copy of another's task lacked has been applied to it.
	PointStandby Point = "standby"
)

func (o *Options) reach(p Point) {
	if o.reached != nil {
		o.reached(p)
	}
}
