package stream_test

// child runs this test binary as a process that is to be killed, where the environment asks for it.
func child() bool { return false }
