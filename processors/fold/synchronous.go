package fold

import (
	"slices"
	"strconv"
	"strings"
)

// syncRule is what synchronous_standby_names demands: that many of these standbys before a commit returns.
type syncRule struct {
	// count is 0 if commits wait for nobody.
	count int
	// names are application names in lower case, for PostgreSQL compares them without case; any stands for *.
	names []string
	any   bool
}

// parseSyncRule reads the setting (PostgreSQL manual, section 20.6.2): ANY k (…), FIRST k (…), k (…), or a plain list, which means
// FIRST 1. What cannot be read demands one standby of any name: too much rather than too little.
func parseSyncRule(setting string) syncRule {
	setting = strings.TrimSpace(setting)
	if setting == "" {
		return syncRule{}
	}
	rule := syncRule{count: 1}
	list := setting
	if open := strings.IndexByte(setting, '('); open >= 0 && strings.HasSuffix(setting, ")") && !strings.HasPrefix(setting, `"`) {
		head := strings.Fields(setting[:open])
		if len(head) == 2 && (strings.EqualFold(head[0], "ANY") || strings.EqualFold(head[0], "FIRST")) {
			head = head[1:]
		}
		k, err := strconv.Atoi(strings.Join(head, " "))
		if err != nil || k < 1 {
			return syncRule{count: 1, any: true}
		}
		rule.count = k
		list = setting[open+1 : len(setting)-1]
	}
	for name := range strings.SplitSeq(list, ",") {
		name = strings.TrimSpace(name)
		if name == "*" {
			rule.any = true
			continue
		}
		name = strings.ToLower(strings.ReplaceAll(strings.Trim(name, `"`), `""`, `"`))
		if name != "" && !slices.Contains(rule.names, name) {
			rule.names = append(rule.names, name)
		}
	}
	if len(rule.names) == 0 {
		rule.any = true
	}
	return rule
}

// streaming counts the standbys that stream and that the rule accepts. A standby that is seen twice, through its half-open old
// walsender, counts once.
func (r syncRule) streaming(senders []sender) int {
	var seen []string
	for _, s := range senders {
		name := strings.ToLower(s.application)
		if s.streaming && (r.any || slices.Contains(r.names, name)) && !slices.Contains(seen, name) {
			seen = append(seen, name)
		}
	}
	return len(seen)
}

// synchronousSender says whether the primary counts the node as synchronous.
func synchronousSender(senders []sender, node string) bool {
	return slices.ContainsFunc(senders, func(s sender) bool { return s.node == node && s.streaming && s.synchronous })
}
