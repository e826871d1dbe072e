package main

import (
	"context"
	"slices"
	"strings"

	"github.com/spf13/cobra"
)

// completeClusters offers cluster ids if the server answers at once.
func (a *app) completeClusters(cmd *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
	return a.complete(cmd, args, func(id string) bool { return strings.Count(id, "/") == 1 })
}

// completeResources offers resource ids.
func (a *app) completeResources(cmd *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
	return a.complete(cmd, args, func(string) bool { return true })
}

func (a *app) complete(cmd *cobra.Command, args []string, wanted func(string) bool) ([]string, cobra.ShellCompDirective) {
	c, err := a.load(cmd)
	if err != nil || len(args) > 0 {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	var answer struct {
		Resources []struct {
			ID string `json:"id"`
		} `json:"resources"`
	}
	ctx, cancel := context.WithTimeout(context.Background(), apiTimeout/10)
	defer cancel()
	if newAPI(c).get(ctx, "/v1/resources", nil, &answer) != nil {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	var ids []string
	for _, r := range answer.Resources {
		if wanted(r.ID) {
			ids = append(ids, r.ID)
		}
	}
	slices.Sort(ids)
	return ids, cobra.ShellCompDirectiveNoFileComp
}
