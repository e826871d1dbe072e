package kafka

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/regent-infra/regent/internal/record"
	"github.com/regent-infra/regent/internal/stream"
)

// Defaults of [SessionConfig].
const (
	DefaultSessionTimeout     = 6 * time.Second
	DefaultHeartbeatInterval  = 200 * time.Millisecond
	DefaultTransactionTimeout = 10 * time.Second
	DefaultFetchWait          = 250 * time.Millisecond
)

// SessionConfig adjusts the sessions of a task runtime. InstanceID is required; the rest has defaults.
type SessionConfig struct {
	// InstanceID names this process among all that run the same processor, over restarts. The transactional ids derive from it
	// (GROUP/INSTANCE and GROUP/INSTANCE/2), so that the next incarnation fences the one before. Keep it outside of checkpoints: two
	// processes with one id throw each other out.
	InstanceID string
	// SessionTimeout is how long the group waits for a member that is silent. Default 6 s, at most 6 s.
	SessionTimeout time.Duration
	// HeartbeatInterval is how often a member reports, and so how soon it learns of a rebalance, which is
	// how long a task stands still that moves. Default 200 ms.
	HeartbeatInterval time.Duration
	// TransactionTimeout is after what time the broker aborts a transaction whose producer is gone: it bounds how long readers of
	// committed records can be held up. Default 10 s.
	TransactionTimeout time.Duration
	// FetchWait is how long a broker holds a fetch that finds nothing. It delays no record, but a partition that is resumed may wait that
	// long for its first fetch. Default 250 ms.
	FetchWait time.Duration
	// Compression of what is produced is none (the default), lz4, zstd or snappy.
	Compression string
	// SpareDead leaves it to the broker to end the open transactions of dead members, which it does when they time out. For credentials that may
	// not write under the transactional ids of the group's other instances.
	SpareDead bool
	// Logger takes the session's log. Default: none.
	Logger *slog.Logger
}

func (c SessionConfig) withDefaults() SessionConfig {
	if c.SessionTimeout == 0 {
		c.SessionTimeout = DefaultSessionTimeout
	}
	if c.HeartbeatInterval == 0 {
		c.HeartbeatInterval = min(DefaultHeartbeatInterval, c.SessionTimeout/4)
	}
	if c.TransactionTimeout == 0 {
		c.TransactionTimeout = DefaultTransactionTimeout
	}
	if c.FetchWait == 0 {
		c.FetchWait = DefaultFetchWait
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	return c
}

// Validate reports every fault of the configuration together.
func (c SessionConfig) Validate() error {
	var faults []error
	add := func(format string, args ...any) { faults = append(faults, fmt.Errorf(format, args...)) }
	if c.InstanceID == "" {
		add("the instance id is empty, expected a name that is unique and stays over restarts")
	}
	d := c.withDefaults()
	if d.SessionTimeout <= 0 || d.SessionTimeout > DefaultSessionTimeout {
		add("the session timeout is %s, expected more than 0 and at most %s", d.SessionTimeout, DefaultSessionTimeout)
	}
	if d.HeartbeatInterval <= 0 || d.HeartbeatInterval >= d.SessionTimeout {
		add("the heartbeat interval is %s, expected more than 0 and less than the session timeout %s", d.HeartbeatInterval, d.SessionTimeout)
	}
	if d.TransactionTimeout <= 0 {
		add("the transaction timeout is %s, expected more than 0", d.TransactionTimeout)
	}
	if d.FetchWait <= 0 {
		add("the fetch wait is %s, expected more than 0", d.FetchWait)
	}
	if _, err := compression(d.Compression); err != nil {
		faults = append(faults, err)
	}
	if err := errors.Join(faults...); err != nil {
		return fmt.Errorf("configure the sessions: %w", err)
	}
	return nil
}

// Log makes sessions for task runtimes; it implements [stream.Log].
type Log struct {
	config  Config
	session SessionConfig

	mu sync.Mutex
	// members are the member ids that this process has had, so that it knows its own from another process's with the same
	// instance id; by group.
	members map[string]string
}

var _ stream.Log = (*Log)(nil)

// NewLog returns a log. It does not connect yet.
func NewLog(config Config, session SessionConfig) (*Log, error) {
	if err := errors.Join(config.Validate(), session.Validate()); err != nil {
		return nil, err
	}
	return &Log{config: config.withDefaults(), session: session.withDefaults(), members: map[string]string{}}, nil
}

// session is one membership of a group with its transactions. It uses four clients, because each has one task that the others would
// disturb:
//
//	member   joins the group and never fetches; sends ticks, asks what has to be asked
//	reader   fetches the partitions that the runtime resumes, from exactly the offsets that it says
//	writers  hold a transactional id each, and take turns
//
// A broker that has answered EndTxn is still writing the markers, and refuses the same producer's next records meanwhile: it waits
// 20 ms before it looks again (add.partitions.to.txn.retry.backoff.ms). So one transaction after another takes the other writer. They never
// overlap, which keeps the order of what they write.
//
// The library's own GroupTransactSession does all with one, and so can only commit the head of everything that was polled, only start where
// the group's offsets say, and asks for a heartbeat in each commit. Here the runtime says which offsets a transaction carries. Safety rests
// on the same two things as there: the broker refuses the offsets of a member whose generation has passed, and whoever gets a partition
// next waits until no transaction has offsets for it open (RequireStable).
type session struct {
	log    *Log
	spec   stream.SessionSpec
	config SessionConfig
	slog   *slog.Logger

	member *kgo.Client
	reader *kgo.Client
	admin  *kadm.Client

	writers [2]writer
	turn    int // the writer of the transaction that is open, or else of the next one

	clusterID  string
	partitions map[string]int32    // of the inputs
	topicIDs   map[string][16]byte // of the inputs
	tv2        bool                // transaction.version is 2 or higher (KIP-890)

	// mu is held from the check of the assignment until the broker has taken the offsets, so that no partition can be given away
	// in between.
	mu       sync.Mutex
	owned    map[string]map[int32]bool
	tasks    map[int32]bool
	assigned []int32 // to be reported by Poll
	revoked  []int32
	standbys []stream.StandbyTask // to be reported by Poll, unless nil
	failed   error                // ends the session
	cancel   context.CancelFunc
	woken    bool

	// began says that a transaction has records; it becomes true under beginning.
	began     atomic.Bool
	beginning sync.Mutex

	fences sync.WaitGroup // at work on what dead members have left open
	quit   context.CancelFunc
	life   context.Context //nolint:containedctx // the session's own, for what goes on beside its methods

	reading  map[record.TopicPartition]bool
	troubled atomic.Pointer[trouble]
}

// writer holds a transactional id.
type writer struct {
	*kgo.Client
	id string
}

// writer returns the one whose turn it is.
func (s *session) writer() writer { return s.writers[s.turn] }

// trouble is why the last attempt to connect to a broker failed.
type trouble struct{ err error }

// Connect implements [stream.Log].
func (l *Log) Connect(ctx context.Context, spec stream.SessionSpec) (stream.Session, error) {
	s := &session{
		log: l, spec: spec, config: l.session,
		slog:    l.session.Logger.With(slog.String("group", spec.Group)),
		owned:   map[string]map[int32]bool{},
		tasks:   map[int32]bool{},
		reading: map[record.TopicPartition]bool{},
	}
	s.life, s.quit = context.WithCancel(context.WithoutCancel(ctx))
	if err := s.connect(ctx); err != nil {
		s.closeClients()
		return nil, classify(l.config.explain("connect for group "+spec.Group, err))
	}
	return s, nil
}

func (s *session) connect(ctx context.Context) (err error) {
	if s.member, err = s.client(s.memberOptions()...); err != nil {
		return err
	}
	if s.reader, err = s.client(s.readerOptions()...); err != nil {
		return err
	}
	for i, id := range []string{s.clientID(), s.clientID() + "/2"} {
		s.writers[i].id = id
		if s.writers[i].Client, err = s.client(s.writerOptions(id)...); err != nil {
			return err
		}
	}
	s.admin = kadm.NewClient(s.member)
	ctx, cancel := context.WithTimeout(ctx, s.log.config.RequestTimeout)
	defer cancel()
	meta, err := s.admin.BrokerMetadata(ctx)
	if err != nil {
		return err
	}
	s.clusterID = meta.Cluster
	details, err := s.admin.ListTopics(ctx, s.spec.Inputs...)
	if err != nil {
		return err
	}
	s.partitions, s.topicIDs = map[string]int32{}, map[string][16]byte{}
	for name, d := range details {
		s.topicIDs[name] = d.ID
		s.partitions[name] = int32(len(d.Partitions)) //nolint:gosec // brokers allow far fewer
	}
	return s.findTransactionVersion(ctx)
}

// clientID tells the members of one instance from all others, see evict.
func (s *session) clientID() string { return s.spec.Group + "/" + s.config.InstanceID }

func (s *session) client(more ...kgo.Opt) (*kgo.Client, error) {
	config := s.log.config
	config.ClientID = s.clientID()
	return config.client(append(more, kgo.WithHooks(&connectHook{s}))...)
}

func (s *session) memberOptions() []kgo.Opt {
	return []kgo.Opt{
		kgo.ConsumerGroup(s.spec.Group),
		kgo.Balancers(copartition{single: s.spec.Single, about: s.about, told: s.onStandbys, log: s.slog}),
		kgo.DisableAutoCommit(),
		kgo.SessionTimeout(s.config.SessionTimeout),
		kgo.RebalanceTimeout(s.config.SessionTimeout),
		kgo.HeartbeatInterval(s.config.HeartbeatInterval),
		kgo.OnPartitionsAssigned(s.onAssigned),
		kgo.OnPartitionsRevoked(s.onRevoked),
		kgo.OnPartitionsLost(s.onRevoked),
		kgo.WithHooks(&groupHook{s}),
		kgo.RecordPartitioner(kgo.ManualPartitioner()),
		kgo.ProducerLinger(0),
		kgo.RecordDeliveryTimeout(s.config.SessionTimeout),
	}
}

func (s *session) readerOptions() []kgo.Opt {
	return []kgo.Opt{
		kgo.FetchIsolationLevel(kgo.ReadCommitted()),
		kgo.FetchMaxWait(s.config.FetchWait),
		kgo.ConsumeResetOffset(kgo.NoResetOffset()), // an offset that is not there must not be replaced by another one
		kgo.KeepControlRecords(),                    // a partition that ends in a marker would never look read to its end
	}
}

func (s *session) writerOptions(id string) []kgo.Opt {
	codec, _ := compression(s.config.Compression) // Validate has looked at it
	return []kgo.Opt{
		kgo.TransactionalID(id),
		kgo.TransactionTimeout(s.config.TransactionTimeout),
		kgo.RecordPartitioner(kgo.ManualPartitioner()),
		kgo.RequiredAcks(kgo.AllISRAcks()),
		kgo.ProducerLinger(0),
		kgo.ProducerBatchCompression(codec),
		kgo.MaxBufferedRecords(100_000),
		kgo.ConcurrentTransactionsBackoff(2 * time.Millisecond),
	}
}

// ClusterID implements [stream.Session].
func (s *session) ClusterID() string { return s.clusterID }

// Join implements [stream.Session].
func (s *session) Join(ctx context.Context) error {
	bounded, cancel := context.WithTimeout(ctx, s.log.config.RequestTimeout)
	defer cancel()
	// First the transactional ids, both of them: that aborts what an earlier incarnation has left open. Joined first, the group could
	// give us partitions whose offsets stay unstable until that transaction times out.
	for _, w := range s.writers {
		if _, _, err := w.ProducerID(bounded); err != nil {
			return classify(s.log.config.explain("initialise the transactional id "+w.id, err))
		}
	}
	dead, err := s.earlier(bounded)
	if err != nil {
		return classify(s.log.config.explain("look for dead members in group "+s.spec.Group, err))
	}
	s.member.PauseFetchTopics(s.spec.Inputs...)
	s.member.AddConsumeTopics(s.spec.Inputs...)
	if err := s.evict(bounded, dead); err != nil {
		return classify(s.log.config.explain("take dead members out of group "+s.spec.Group, err))
	}
	return nil
}

// earlier returns the members that earlier incarnations of this instance have left in the group. A member of this instance that appeared
// after one of our own is another process with the same id, which cannot be right.
func (s *session) earlier(ctx context.Context) ([]string, error) {
	members, err := s.members(ctx)
	if err != nil {
		return nil, err
	}
	s.log.mu.Lock()
	own := s.log.members[s.spec.Group]
	s.log.mu.Unlock()
	for _, id := range members {
		if own != "" && id != own {
			return nil, &stream.FatalError{Err: fmt.Errorf("another process has joined group %s as instance %q; give each process an id of its own",
				s.spec.Group, s.config.InstanceID)}
		}
	}
	return members, nil
}

// members returns the ids of the group's members with this instance's name.
func (s *session) members(ctx context.Context) ([]string, error) {
	var g kadm.DescribedGroup
	err := s.again(ctx, "describe the group", func() error {
		groups, err := s.admin.DescribeGroups(ctx, s.spec.Group)
		g = groups[s.spec.Group]
		return errors.Join(err, g.Err)
	})
	if errors.Is(err, kerr.GroupIDNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var ids []string
	for _, m := range g.Members {
		if m.ClientID == s.clientID() {
			ids = append(ids, m.MemberID)
		}
	}
	return ids, nil
}

// evictAfter bounds the wait for our own member to show up.
const evictAfter = 500 * time.Millisecond

// evict removes dead members of this instance, which would hold up the join until their session times out. It waits until we are in the group
// ourselves: one that has become empty makes the next member wait for others that might come (group.initial.rebalance.delay.ms, 3 s).
func (s *session) evict(ctx context.Context, dead []string) error {
	if len(dead) == 0 {
		return nil
	}
	patience, cancel := context.WithTimeout(ctx, evictAfter)
	defer cancel()
	for patience.Err() == nil {
		now, err := s.members(ctx)
		if err != nil {
			return err
		}
		if slices.ContainsFunc(now, func(id string) bool { return !slices.Contains(dead, id) }) {
			break
		}
		if err := pause(ctx, 5*time.Millisecond); err != nil {
			return err
		}
	}
	req := kmsg.NewPtrLeaveGroupRequest()
	req.Group = s.spec.Group
	for _, id := range dead {
		lm := kmsg.NewLeaveGroupRequestMember()
		lm.MemberID = id
		req.Members = append(req.Members, lm)
	}
	s.slog.Info("removing members that an earlier incarnation of this instance left in the group", slog.Int("members", len(req.Members)))
	resp, err := req.RequestWith(ctx, s.member)
	if err != nil {
		return err
	}
	for _, m := range resp.Members {
		if err := kerr.ErrorForCode(m.ErrorCode); err != nil && !errors.Is(err, kerr.UnknownMemberID) {
			return err
		}
	}
	return kerr.ErrorForCode(resp.ErrorCode)
}

// Trouble implements [stream.Session].
func (s *session) Trouble() error {
	if t := s.troubled.Load(); t != nil {
		return t.err
	}
	return nil
}

// Close implements [stream.Session].
func (s *session) Close(ctx context.Context) error {
	err := s.Abort(ctx)
	if left := s.member.LeaveGroupContext(ctx); left != nil && err == nil {
		err = fmt.Errorf("leave group %s: %w", s.spec.Group, left)
	}
	s.closeClients()
	return err
}

func (s *session) closeClients() {
	s.quit()
	for _, c := range []*kgo.Client{s.writers[0].Client, s.writers[1].Client, s.reader, s.member} {
		if c != nil {
			c.CloseAllowingRebalance()
		}
	}
	s.fences.Wait()
}
