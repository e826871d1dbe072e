package main

import (
	"io"

	"github.com/vbauerster/mpb/v8"
	"github.com/vbauerster/mpb/v8/decor"

	"github.com/regent-infra/regent/internal/telemetry"
)

// meter shows how far long work is: a bar with rate and time left on a terminal, nothing elsewhere.
type meter struct {
	progress *mpb.Progress
	bar      *mpb.Bar
}

// newMeter makes a meter that counts records.
func newMeter(w io.Writer, name string) *meter {
	if !telemetry.IsTerminal(w) {
		return &meter{}
	}
	p := mpb.New(mpb.WithWidth(40), mpb.WithOutput(w))
	return &meter{progress: p, bar: p.AddBar(0,
		mpb.PrependDecorators(decor.Name(name+" "), decor.CountersNoUnit("%d/%d records ")),
		mpb.AppendDecorators(decor.AverageSpeed(0, "%.0f/s "), decor.AverageETA(decor.ET_STYLE_GO)),
	)}
}

// set says how much is done of what there is to do, which may still grow.
func (m *meter) set(done, total int64) {
	if m.bar != nil {
		m.bar.SetTotal(total, false)
		m.bar.SetCurrent(done)
	}
}

// end takes the bar off the screen.
func (m *meter) end() {
	if m.bar != nil {
		m.bar.Abort(true)
		m.progress.Wait()
	}
}
