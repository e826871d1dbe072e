package decide

import (
	"time"

	"github.com/regent-infra/regent/schemas"
)

const (
	stepRestart       Step = "restart"
	stepStartPrimary  Step = "start-primary"
	stepStartStandbys Step = "start-standbys"
	stepStopPrimary   Step = "stop-primary"
	stepStopStandbys  Step = "stop-standbys"
	stepProbe         Step = "probe"
)

// restartTable restarts postgres where it is.
func restartTable() *Table {
	return &Table{
		Kind:     schemas.WorkflowKindRestartNode,
		Doc:      "Restarts the postgres of one node in place. By command it begins with restart; Regent itself begins with start, when a primary is down and is to come back as what it was: under its own term, or, if a revocation was opened meanwhile, under a new one.",
		Deadline: 10 * time.Minute,
		Retries:  2,
		Steps: []StepInfo{
			{stepRestart, 2 * time.Minute, "The postmaster is another one and takes connections."},
			{stepStart, 30 * time.Second, "The primary serves again."},
		},
		Rows: []Row{
			{ID: "R1", Step: stepRestart, If: []Condition{yes(factRestarted)}, End: schemas.WorkflowStatusSucceeded, say: (*run).sayRestarted, Why: "it runs again"},
			{ID: "R2", Step: stepRestart, If: []Condition{no(factRestarted), yes(factStuck)}, End: schemas.WorkflowStatusFailed, Do: []Action{actRestartFailed}, say: (*run).sayStuck, Why: "if it is the primary and down, the watch decides what follows"},
			{ID: "R3", Step: stepRestart, If: []Condition{no(factRestarted), no(factStuck)}, Do: []Action{actRestart}, say: (*run).sayRestarting, Why: "it is at work"},

			{ID: "R4", Step: stepStart, If: []Condition{yes(factInOffice)}, End: schemas.WorkflowStatusSucceeded, Do: []Action{actForgive}, say: (*run).sayInOffice, Why: "it serves as before"},
			{ID: "R5", Step: stepStart, If: []Condition{no(factInOffice), yes(factStuck)}, End: schemas.WorkflowStatusFailed, Do: []Action{actRestartFailed}, say: (*run).sayStuck, Why: "it does not come back: the watch decides what follows"},
			{ID: "R6", Step: stepStart, If: []Condition{no(factInOffice), no(factStuck)}, Do: []Action{actStartPrimary}, say: (*run).sayServing, Why: "it comes up"},
		},
	}
}

// shutdownTable stops a cluster in reverse order.
func shutdownTable() *Table {
	return &Table{
		Kind:      schemas.WorkflowKindShutdownCluster,
		Doc:       "Stops a cluster in reverse order: the primary first, so that its standbys receive all it wrote, then they. From its beginning on nothing is failed over.",
		Deadline:  10 * time.Minute,
		Retries:   2,
		Exclusive: true,
		begin:     func(r *run) { r.rec.ShutDown = true },
		Steps: []StepInfo{
			{stepStopPrimary, 2 * time.Minute, "The primary is down."},
			{stepStopStandbys, 2 * time.Minute, "The standbys are down."},
		},
		Rows: []Row{
			{ID: "D1", Step: stepStopPrimary, If: []Condition{yes(factPrimaryDown)}, Next: stepStopStandbys, Do: []Action{actStopStandbys}, Why: "nothing more is written"},
			{ID: "D2", Step: stepStopPrimary, If: []Condition{no(factPrimaryDown), yes(factStuck)}, End: schemas.WorkflowStatusFailed, Do: []Action{actStayUp}, say: (*run).sayStuck, Why: "nothing else was stopped: the cluster goes on"},
			{ID: "D3", Step: stepStopPrimary, If: []Condition{no(factPrimaryDown), no(factStuck)}, Do: []Action{actStopPrimary}, say: (*run).sayStopPrimary, Why: "it drains"},

			{ID: "D4", Step: stepStopStandbys, If: []Condition{yes(factAllDown)}, End: schemas.WorkflowStatusSucceeded, Do: []Action{actReportDrained}, say: (*run).sayShutDown, Why: "all is down"},
			{ID: "D5", Step: stepStopStandbys, If: []Condition{no(factAllDown), yes(factStuck)}, End: schemas.WorkflowStatusFailed, Do: []Action{actReportDrained}, say: (*run).sayNotAllDown, Why: "the primary is down and stays so; who does not answer cannot be stopped"},
			{ID: "D6", Step: stepStopStandbys, If: []Condition{no(factAllDown), no(factStuck)}, Do: []Action{actStopStandbys}, say: (*run).sayStopAll, Why: "they stop"},
		},
	}
}

// startTable starts a cluster that was shut down.
func startTable() *Table {
	return &Table{
		Kind:      schemas.WorkflowKindStartCluster,
		Doc:       "Starts a cluster that was shut down, in the order of dependence: the primary as what it was, then the standbys.",
		Deadline:  time.Hour,
		Retries:   2,
		Exclusive: true,
		Steps: []StepInfo{
			{stepStartPrimary, 2 * time.Minute, "The primary serves."},
			{stepStartStandbys, 2 * time.Minute, "The standbys stream."},
		},
		Rows: []Row{
			{ID: "U1", Step: stepStartPrimary, If: []Condition{yes(factInOffice)}, Next: stepStartStandbys, Do: []Action{actStarted, actFollowAll}, Why: "there is something to follow"},
			{ID: "U2", Step: stepStartPrimary, If: []Condition{no(factInOffice), yes(factStuck)}, End: schemas.WorkflowStatusFailed, say: (*run).sayStuck, Why: "it stays shut down: nobody asked for another primary"},
			{ID: "U3", Step: stepStartPrimary, If: []Condition{no(factInOffice), no(factStuck)}, Do: []Action{actStartPrimary}, say: (*run).sayServing, Why: "it comes up"},

			{ID: "U4", Step: stepStartStandbys, If: []Condition{yes(factAllStream)}, End: schemas.WorkflowStatusSucceeded, say: (*run).sayStarted, Why: "all is up"},
			{ID: "U5", Step: stepStartStandbys, If: []Condition{no(factAllStream), yes(factStuck), yes(factEnoughStream)}, End: schemas.WorkflowStatusSucceeded, say: (*run).sayStarted, Why: "commits go through; the others are rejoined one by one"},
			{ID: "U6", Step: stepStartStandbys, If: []Condition{no(factAllStream), yes(factStuck), no(factEnoughStream)}, End: schemas.WorkflowStatusFailed, say: (*run).sayStarted, Why: "commits wait for standbys; they are rejoined one by one"},
			{ID: "U7", Step: stepStartStandbys, If: []Condition{no(factAllStream), no(factStuck)}, Do: []Action{actFollowAll}, say: (*run).sayClone, Why: "they come up"},
		},
	}
}

// checkTable asks every agent to look at once.
func checkTable() *Table {
	return &Table{
		Kind:     schemas.WorkflowKindCheckHealth,
		Doc:      "Asks every agent to look at once and waits for their answers. It runs beside whatever owns the cluster, and changes nothing.",
		Deadline: maxCheckTimeout + time.Minute,
		Steps:    []StepInfo{{stepProbe, 10 * time.Second, "Every node answers. The command says how long to wait."}},
		Rows: []Row{
			{ID: "H1", Step: stepProbe, If: []Condition{yes(factAllAnswered)}, End: schemas.WorkflowStatusSucceeded, say: (*run).sayHealth, Why: "everybody has answered"},
			{ID: "H2", Step: stepProbe, If: []Condition{no(factAllAnswered), yes(factOverdue)}, End: schemas.WorkflowStatusFailed, say: (*run).sayUnanswered, Why: "who has not answered by now is reported as silent"},
			{ID: "H3", Step: stepProbe, If: []Condition{no(factAllAnswered), no(factOverdue)}, Do: []Action{actProbe}, say: (*run).sayUnanswered, Why: "they are looking"},
		},
	}
}
