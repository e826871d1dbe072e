package conformance

import "github.com/twmb/franz-go/pkg/kgo"

var idempotence = []behaviour{
	{
		"a batch that is sent again is taken once",
		"0, 1, again 1; [0:a 1:b]",
		func(p *probe) {
			out := p.topic("out", 1)
			r := p.raw("").started()
			batch := r.batch(out, 0, 1, "b")
			p.say("%s, %s, again %s", r.send(out, 0, "a"), r.sendBatch(out, 0, batch), r.sendBatch(out, 0, batch))
			p.say("%s", p.committed(out, 0))
		},
	},
	{
		"a gap in the sequence is refused",
		"0, OUT_OF_ORDER_SEQUENCE_NUMBER; [0:a]",
		func(p *probe) {
			out := p.topic("out", 1)
			r := p.raw("").started()
			p.say("%s, %s", r.send(out, 0, "a"), r.sendBatch(out, 0, r.batch(out, 0, 7, "b")))
			p.say("%s", p.committed(out, 0))
		},
	},
	{
		"a gap inside a transaction is refused",
		"0, OUT_OF_ORDER_SEQUENCE_NUMBER",
		func(p *probe) {
			out := p.topic("out", 1)
			r := p.raw("tx").started()
			p.say("%s, %s", r.send(out, 0, "a"), r.sendBatch(out, 0, r.batch(out, 0, 7, "b")))
			r.done(false)
		},
	},
	{
		"an epoch that has passed is refused",
		"0, INVALID_PRODUCER_EPOCH",
		func(p *probe) {
			out := p.topic("out", 1)
			r := p.raw("").started()
			r.epoch = 1
			first := r.send(out, 0, "a")
			r.epoch = 0
			p.say("%s, %s", first, r.sendBatch(out, 0, r.batch(out, 0, 1, "b")))
		},
	},
	{
		"a damaged batch is refused",
		"CORRUPT_MESSAGE; []",
		func(p *probe) {
			out := p.topic("out", 1)
			r := p.raw("").started()
			batch := r.batch(out, 0, 0, "a")
			batch[len(batch)-2] ^= 1
			p.say("%s", r.sendBatch(out, 0, batch))
			p.say("%s", p.committed(out, 0))
		},
	},
	{
		"transactional records without a transaction that names them are refused",
		"INVALID_TXN_STATE or taken into one: 0",
		func(p *probe) {
			// From transaction.version 2 on, the first record opens the transaction.
			out := p.topic("out", 1)
			r := p.raw("tx").started()
			p.say("INVALID_TXN_STATE or taken into one: %s", r.send(out, 0, "a"))
			r.done(false)
		},
	},
	{
		"a client's idempotent producer keeps the order of what it sends at once",
		"1000 in order",
		func(p *probe) {
			out := p.topic("out", 1)
			var recs []*kgo.Record
			for range 1000 {
				recs = append(recs, &kgo.Record{Topic: out, Value: []byte("x")})
			}
			p.ok(p.cl.ProduceSync(p.Context(), recs...).FirstErr())
			order := "in order"
			for i, r := range recs {
				if r.Offset != int64(i) {
					order = "out of order"
				}
			}
			p.say("%d %s", len(p.records(out, 0, kgo.ReadCommitted())), order)
		},
	},
}
