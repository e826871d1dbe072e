package httpapi

import (
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/regent-infra/regent/schemas"
)

// Status is one screen: what is unhealthy, since when, why, what is being done about it, what needs a person.
type Status struct {
	// Health is the worst of all clusters; UNKNOWN if there are none.
	Health schemas.Health `json:"health"`
	// Clusters and Nodes count by health.
	Clusters map[schemas.Health]int `json:"clusters"`
	Nodes    map[schemas.Health]int `json:"nodes"`
	// Problems are what is not healthy, worst first.
	Problems []Problem `json:"problems"`
	// ControlPlane is how this process does.
	ControlPlane Readiness `json:"control_plane"`
}

// Problem is one cluster that is not healthy, or that waits for a person.
type Problem struct {
	// Resource is the cluster id.
	Resource string `json:"resource"`
	// Health of the cluster.
	Health schemas.Health `json:"health"`
	// Since is when that health began.
	Since time.Time `json:"since"`
	// Diagnosis is the analysis code.
	Diagnosis schemas.AnalysisCode `json:"diagnosis"`
	// Writable says whether clients can commit.
	Writable bool `json:"writable"`
	// Why says what the health rests on, worst first.
	Why []string `json:"why"`
	// Doing says what Regent does about it; empty if nothing.
	Doing string `json:"doing"`
	// WorkflowID is the workflow that does it.
	WorkflowID string `json:"workflow_id,omitempty"`
	// Needs says what a person has to do; empty if nothing.
	Needs string `json:"needs"`
}

// maxWhy bounds the causes of one problem, so that the screen stays one screen.
const maxWhy = 6

func (s *Server) status(*http.Request) (any, error) {
	clusters, err := s.gather("")
	if err != nil {
		return nil, err
	}
	return summarize(clusters, s.readiness()), nil
}

// severity orders healths, worst last.
func severity(h schemas.Health) int {
	switch h {
	case schemas.HealthHealthy:
		return 0
	case schemas.HealthUnknown:
		return 1
	case schemas.HealthDegraded:
		return 2
	case schemas.HealthDown:
		return 3
	default:
		return 1
	}
}

func summarize(clusters []Cluster, readiness Readiness) Status {
	s := Status{
		Health: schemas.HealthUnknown, Clusters: map[schemas.Health]int{}, Nodes: map[schemas.Health]int{},
		Problems: []Problem{}, ControlPlane: readiness,
	}
	for i, c := range clusters {
		health := schemas.HealthUnknown
		if c.State != nil {
			health = c.State.Health
		}
		if i == 0 || severity(health) > severity(s.Health) {
			s.Health = health
		}
		s.Clusters[health]++
		for _, n := range c.Nodes {
			s.Nodes[schemas.Health(healthOf(n.Value))]++
		}
		p := Problem{Resource: c.ID, Health: health, Since: c.Since, Why: []string{}}
		p.Doing, p.WorkflowID = doing(c)
		p.Needs = needs(c)
		if health == schemas.HealthHealthy && p.Needs == "" && p.Doing == "" {
			continue
		}
		if c.State != nil {
			p.Diagnosis, p.Writable = c.State.Analysis, c.State.Writable
		}
		p.Why = why(c)
		s.Problems = append(s.Problems, p)
	}
	sortProblems(s.Problems)
	return s
}

func sortProblems(all []Problem) {
	// Insertion keeps the order by id among equals; there are few.
	for i := range all {
		for j := i; j > 0 && severity(all[j].Health) > severity(all[j-1].Health); j-- {
			all[j], all[j-1] = all[j-1], all[j]
		}
	}
}

func why(c Cluster) []string {
	reasons := []string{}
	if c.State == nil {
		return append(reasons, "no agent of this cluster has reported")
	}
	if c.State.AnalysisDetail != "" && c.State.Analysis != schemas.AnalysisCodeNoProblem {
		reasons = append(reasons, c.State.AnalysisDetail)
	}
	for i, cause := range c.State.Causes {
		if i == maxWhy {
			reasons = append(reasons, "and "+plural(len(c.State.Causes)-i, "more cause"))
			break
		}
		text := cause.Message
		if cause.Resource != "" && cause.Resource != c.ID {
			text = cause.Resource[strings.LastIndexByte(cause.Resource, '/')+1:] + ": " + text
		}
		if len(reasons) == 0 || text != reasons[0] {
			reasons = append(reasons, text)
		}
	}
	return reasons
}

// doing says what Regent does about a cluster, or why it does not.
func doing(c Cluster) (text, workflow string) {
	if w := c.Workflow; w != nil {
		text = fmt.Sprintf("%s, step %s", words(string(w.Kind)), w.Step)
		if w.WaitingFor != "" {
			text += ": " + w.WaitingFor
		}
		return text, w.ID
	}
	if c.Record != nil && c.Record.Held != nil {
		return fmt.Sprintf("%s is held back (%s): %s", words(string(c.Record.Held.Kind)), c.Record.Held.Code, c.Record.Held.Message), ""
	}
	return "", ""
}

// needs says what a person has to do about a cluster.
func needs(c Cluster) string {
	switch {
	case c.Workflow != nil:
		return ""
	case c.Record == nil:
		return fmt.Sprintf("initialise it: regent init %s", c.ID)
	case c.Record.ShutDown:
		return fmt.Sprintf("it was shut down by command; to start it: regent start %s", c.ID)
	case c.Record.Held != nil && c.Record.Held.Code == "manual":
		return fmt.Sprintf("failover is set to manual; decide, then: regent failover %s", c.ID)
	case !c.Record.Initialized:
		return fmt.Sprintf("its initialisation did not succeed%s; mend the cause, then: regent init %s", because(c.LastWorkflow), c.ID)
	case c.State != nil && c.State.Health == schemas.HealthDown && c.Record.Held != nil:
		return c.Record.Held.Message
	case c.LastWorkflow != nil && c.State != nil && c.State.Health != schemas.HealthHealthy && failed(c.LastWorkflow.Status):
		return fmt.Sprintf("the last %s failed%s; see: regent explain %s", words(string(c.LastWorkflow.Kind)), because(c.LastWorkflow), c.LastWorkflow.ID)
	}
	return ""
}

func failed(s schemas.WorkflowStatus) bool {
	return s == schemas.WorkflowStatusFailed || s == schemas.WorkflowStatusTimedOut
}

// because returns the last word of a workflow's history.
func because(w *schemas.Workflow) string {
	if w == nil || len(w.History) == 0 {
		return ""
	}
	return " (" + w.History[len(w.History)-1].Message + ")"
}

// words turns a constant such as RESTART_NODE into words.
func words(constant string) string {
	return strings.ToLower(strings.ReplaceAll(constant, "_", " "))
}
