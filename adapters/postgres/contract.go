package postgres

import (
	_ "embed" // the contract lies beside the code that it binds

	"github.com/regent-infra/regent/adapters/postgres/guard"
	"github.com/regent-infra/regent/internal/contract"
	"github.com/regent-infra/regent/internal/topics"
)

//go:embed contract.yaml
var contractYAML []byte

const contractFile = "adapters/postgres/contract.yaml"

// Contract returns the agent's contract, held against the topics of the set and against what the agent can execute. The error names every
// fault; an agent that has one does not start.
func Contract(set *topics.Set) (*contract.Contract, error) {
	c, err := contract.Parse(contractFile, contractYAML)
	if err != nil {
		return nil, err
	}
	if err := contract.Check(c, set, guard.Orders()); err != nil {
		return nil, err
	}
	return c, nil
}
