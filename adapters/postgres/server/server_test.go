package server_test

import (
	"encoding/json"
	"fmt"
	"os"
	"testing"

	"github.com/regent-infra/regent/adapters/postgres/server"
	"github.com/regent-infra/regent/adapters/postgres/servertest"
)

// parentVariable makes this test binary an agent that is going to be killed: see death_test.go.
const parentVariable = "REGENT_TEST_PARENT"

func TestMain(m *testing.M) {
	if plan := os.Getenv(parentVariable); plan != "" {
		if err := actAsParent(plan); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	servertest.Main(m)
}

// parentPlan is what the test tells its agent.
type parentPlan struct {
	Config server.Config
	Role   server.Role
}

func decodePlan(text string) (parentPlan, error) {
	var plan parentPlan
	err := json.Unmarshal([]byte(text), &plan)
	return plan, err
}
