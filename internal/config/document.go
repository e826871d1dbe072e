package config

import (
	"fmt"
	"strings"
)

// Document returns the reference of every setting as Markdown: docs/configuration.md.
func Document() string {
	var b strings.Builder
	b.WriteString(`# Configuration

Every subcommand reads one configuration. Values come from, each over the one before:

    defaults < context in force < file < environment < flags

The file is YAML: the one that --config or REGENT_CONFIG names, else ~/.config/regent/config.yaml if there is one. Unknown keys, wrong types and
values out of range are all reported together, each with its place; nothing starts on half a configuration.
` + "`regent config check`" + ` only looks, ` + "`regent config show`" + ` says which value comes from where. Secrets are never shown.

Some more variables are the machine's and no settings: REGENT_CACHE, the folder where published programs are kept once they were fetched, such as PostgreSQL's (else the
user's cache folder), and REGENT_MAVEN_URL, the repository that they are fetched from. GOGC, where it is set, decides how far the heap grows between two garbage
collections; else Go's rule holds, with more room while they come fast (docs/performance.md).

This page is made from the settings themselves (go test ./internal/config -update).

`)
	section := "\x00"
	for _, s := range settings {
		head, _, nested := strings.Cut(s.Key, ".")
		if !nested {
			head = ""
		}
		if head != section {
			section = head
			title := "General"
			if head != "" {
				title = "`" + head + "`"
			}
			fmt.Fprintf(&b, "\n## %s\n\n| key | type | default | environment | what for |\n|---|---|---|---|---|\n", title)
		}
		doc := s.Doc
		if s.Unit != "" {
			doc += " (" + s.Unit + ")"
		}
		if accepted := s.accepted(); accepted != "" {
			doc += "; " + accepted
		}
		fmt.Fprintf(&b, "| `%s` | %s | %s | %s | %s |\n", s.Key, s.Type, code(s.Default), code(s.Env), strings.ReplaceAll(doc, "|", "\\|"))
	}
	return b.String()
}

func code(text string) string {
	if text == "" {
		return ""
	}
	return "`" + text + "`"
}

// accepted says in words which values the check accepts.
func (s Setting) accepted() string {
	kind, argument, _ := strings.Cut(s.Check, "=")
	switch kind {
	case "enum":
		return "one of " + strings.ReplaceAll(strings.TrimPrefix(argument, "|"), "|", ", ")
	case "enums":
		return "any of " + strings.ReplaceAll(argument, "|", ", ")
	case "range":
		low, high, _ := strings.Cut(argument, "..")
		if s.kind == typeSize {
			low, high = Size(mustInt(low)).String(), Size(mustInt(high)).String()
		}
		return low + " to " + high
	default:
		return ""
	}
}
