package kafkaserver

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"regexp"
	"strconv"
)

// oldestJava is the oldest release that Apache Kafka 4.x runs on.
const oldestJava = 17

// javaHint is what to do about a machine without it. .ci/java says the same, before anything is built.
const javaHint = "these tests need Java 17 or newer, for example: apt-get install -y openjdk-17-jre-headless; make test-embedded runs what needs none"

var javaVersion = regexp.MustCompile(`version "(?:1\.)?(\d+)`)

// javaVariable is "none" where only tests run that need no Java (make test-embedded): also a machine that has one then shows a test whose
// name does not say that it needs it.
const javaVariable = "REGENT_TEST_JAVA"

// Java returns the path of a Java that is new enough.
func Java(ctx context.Context) (string, error) {
	if os.Getenv(javaVariable) == "none" {
		return "", errors.New(javaVariable + " is none, but this test needs Java: put ApacheKafka into its name, so that make test-embedded leaves it out")
	}
	path, err := exec.LookPath("java")
	if err != nil {
		return "", errors.New("no java in PATH: " + javaHint)
	}
	out, err := exec.CommandContext(ctx, path, "-version").CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("ask %s for its version: %w: %s", path, err, out)
	}
	release, err := parseJava(string(out))
	if err != nil {
		return "", fmt.Errorf("ask %s for its version: %w", path, err)
	}
	if release < oldestJava {
		return "", fmt.Errorf("%s is Java %d: %s", path, release, javaHint)
	}
	return path, nil
}

// parseJava finds the release in what java -version says.
func parseJava(said string) (int, error) {
	m := javaVersion.FindStringSubmatch(said)
	if m == nil {
		return 0, fmt.Errorf("expected a line with version \"…\", got %q", said)
	}
	return strconv.Atoi(m[1])
}
