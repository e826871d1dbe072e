package embedded

const childEnv = "REGENT_EMBEDDED_CHILD"

func runChild(string) int { return 2 }
