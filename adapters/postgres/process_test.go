package postgres

// envAgent makes the test binary an agent: see agentProcess.
const envAgent = "REGENT_TEST_AGENT"

func agentProcess() int { return 0 }
