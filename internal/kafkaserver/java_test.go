package kafkaserver

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestJavaIsAskedForItsVersion(t *testing.T) {
	for said, want := range map[string]int{
		"openjdk version \"17.0.15\" 2025-04-15\nOpenJDK Runtime Environment": 17,
		"openjdk version \"21\" 2023-09-19":                                   21,
		"java version \"1.8.0_292\"":                                          8,
		"Picked up JAVA_TOOL_OPTIONS: -Xmx1g\nopenjdk version \"25.0.1\"":     25,
	} {
		if got, err := parseJava(said); err != nil || got != want {
			t.Errorf("%q: release %d, %v; expected %d", said, got, err, want)
		}
	}
	if _, err := parseJava("bash: java: command not found"); err == nil {
		t.Error("no version was found, and no error")
	}
}

func TestAMissingOrOldJavaSaysHowToGetOne(t *testing.T) {
	dir := t.TempDir()
	t.Setenv("PATH", dir)
	t.Setenv(javaVariable, "")
	check := func(want ...string) {
		t.Helper()
		_, err := Start(t.Context(), t.TempDir())
		for _, w := range want {
			if err == nil || !strings.Contains(err.Error(), w) {
				t.Errorf("got %v, expected %q in it", err, w)
			}
		}
	}
	check("no java in PATH", "apt-get install -y openjdk-17-jre-headless", "make test-embedded")
	script := "#!/bin/sh\necho 'openjdk version \"11.0.2\"' >&2\n"
	if err := os.WriteFile(filepath.Join(dir, "java"), []byte(script), 0o700); err != nil { //nolint:gosec // it is to be run
		t.Fatal(err)
	}
	check("is Java 11", "apt-get install -y openjdk-17-jre-headless")
	t.Setenv(javaVariable, "none")
	check("put ApacheKafka into its name")
}

func TestSharingIsAsked(t *testing.T) {
	if _, err := Shared(t.Context()); err == nil || !strings.Contains(err.Error(), "kafkaserver.Sharing") {
		t.Errorf("a shared broker that nobody ends: %v", err)
	}
}
