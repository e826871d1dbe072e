package reducer

import (
	_ "embed" // the contracts
	"errors"
	"fmt"
	"slices"

	"github.com/regent-infra/regent/internal/contract"
	"github.com/regent-infra/regent/internal/stream"
	"github.com/regent-infra/regent/internal/topics"
)

//go:embed contract.yaml
var postgresContract []byte

//go:embed contract_fleet.yaml
var fleetContract []byte

// conform holds a definition to its contract: the contract has to agree with the declared topics, and both have to name the same topics
// and the same processor. The error names all faults.
func conform(def *stream.Definition, file string, raw []byte) error {
	c, err := contract.Parse("processors/reducer/"+file, raw)
	if err != nil {
		return err
	}
	errs := []error{contract.Check(c, topics.Default(), nil)}
	if c.Name != def.Name {
		errs = append(errs, fmt.Errorf("contract %s is of %s, and the code of %s", file, c.Name, def.Name))
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
	}
	outputs = append(append(outputs, def.Outputs...), def.Changelog)
	if def.Tick != nil {
		outputs = append(outputs, def.Tick.Topic)
	}
	errs = append(errs, sameTopics(file, "consumes", consumed, inputs), sameTopics(file, "produces", produced, outputs))
	return errors.Join(errs...)
}

func sameTopics(file, what string, promised, coded []string) error {
	var errs []error
	for _, topic := range promised {
		if !slices.Contains(coded, topic) {
			errs = append(errs, fmt.Errorf("contract %s %s %s, and the code does not", file, what, topic))
		}
	}
	for _, topic := range coded {
		if !slices.Contains(promised, topic) {
			errs = append(errs, fmt.Errorf("the code %s %s, and contract %s does not say so", what, topic, file))
		}
	}
	return errors.Join(errs...)
}
