package main

import "github.com/spf13/cobra"

// workflowsShowCommand renders decision tables.
func (a *app) workflowsShowCommand() *cobra.Command { return nil }
