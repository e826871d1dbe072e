package orchestrator

import (
	_ "embed" // the contract
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/regent-infra/regent/internal/contract"
	"github.com/regent-infra/regent/internal/stream"
	"github.com/regent-infra/regent/internal/topics"
	"github.com/regent-infra/regent/processors/decide"
	"github.com/regent-infra/regent/schemas"
)

//go:embed contract.yaml
var contractYAML []byte

// conform holds the definition to its contract: topics, records and commands have to be those of the code. The error names all faults.
func conform(def *stream.Definition) error {
	c, err := contract.Parse("processors/orchestrator/contract.yaml", contractYAML)
	if err != nil {
		return err
	}
	errs := []error{contract.Check(c, topics.Default(), handlers())}
	if c.Name != def.Name {
		errs = append(errs, fmt.Errorf("the contract is of %s, and the code of %s", c.Name, def.Name))
	}
	var consumed, inputs, produced, outputs []string
	for _, in := range c.Consumes {
		consumed = append(consumed, in.Topic)
	}
	for _, in := range def.Inputs {
		inputs = append(inputs, in.Topic)
	}
	for _, out := range c.Produces {
		produced = append(produced, out.Topic)
		if strings.Contains(out.Topic, ".orders.") {
			errs = append(errs, same("orders", out.Records, orders()))
		}
	}
	outputs = append(append(outputs, def.Outputs...), def.Changelog, def.Tick.Topic)
	errs = append(errs, same("inputs", consumed, inputs), same("outputs", produced, outputs))
	return errors.Join(errs...)
}

// handlers are the commands that decide has a table for.
func handlers() []string {
	var names []string
	for _, payload := range []any{
		new(schemas.InitializeCluster), new(schemas.CheckHealth), new(schemas.SwitchoverCluster), new(schemas.FailoverCluster),
		new(schemas.RestartNode), new(schemas.ReinitializeNode), new(schemas.StartCluster), new(schemas.ShutdownCluster),
	} {
		if _, ok := decide.Kind(payload); ok {
			names = append(names, schemas.RecordName(payload))
		}
	}
	return names
}

// orders are those that some row of a decision table may issue.
func orders() []string {
	var names []string
	for _, t := range decide.Tables() {
		for _, row := range t.Rows {
			for _, a := range row.Do {
				names = append(names, a.Orders...)
			}
		}
	}
	slices.Sort(names)
	return slices.Compact(names)
}

func same(what string, promised, coded []string) error {
	var errs []error
	for _, name := range promised {
		if !slices.Contains(coded, name) {
			errs = append(errs, fmt.Errorf("contract.yaml promises %s among its %s, and the code does not have it", name, what))
		}
	}
	for _, name := range coded {
		if !slices.Contains(promised, name) {
			errs = append(errs, fmt.Errorf("the code has %s among its %s, and contract.yaml does not say so", name, what))
		}
	}
	return errors.Join(errs...)
}
