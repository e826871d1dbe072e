package embedded

import (
	"math"

	"github.com/twmb/franz-go/pkg/kmsg"
)

// minFetchShare is what each partition of a fetch may bring at least, whatever the fetch as a whole may.
const minFetchShare = 1 << 20

// onFetch lifts the limit of a fetch as a whole, and puts it on its partitions instead. Where kfake cuts an answer off at that limit, it leaves
// out the aborted transactions of the partition at which it stops; a read_committed client then takes their records for committed.
func (g *gate) onFetch(kreq kmsg.Request) kmsg.Response {
	req := kreq.(*kmsg.FetchRequest)
	n := 0
	for i := range req.Topics {
		n += len(req.Topics[i].Partitions)
	}
	share := max(req.MaxBytes/int32(max(n, 1)), minFetchShare) //nolint:gosec // a request holds fewer partitions than its bytes
	for i := range req.Topics {
		rt := &req.Topics[i]
		for j := range rt.Partitions {
			rt.Partitions[j].PartitionMaxBytes = min(rt.Partitions[j].PartitionMaxBytes, share)
		}
	}
	req.MaxBytes = math.MaxInt32
	return nil
}
