package sessiontest

import (
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"regexp"
	"slices"
	"strings"
)

// parseFields validates a body of string fields as the server does: unknown
// fields are refused, and all complaints come in one list. An empty body is an
// object without fields. Fields whose name ends in "?" may be missing.
func parseFields(body []byte, names ...string) (map[string]string, *refusal) {
	raw, bad := parseObject(body)
	if bad != nil {
		return nil, bad
	}
	var complaints []string
	for _, name := range slices.Sorted(maps.Keys(raw)) {
		if !slices.Contains(names, name) && !slices.Contains(names, name+"?") {
			complaints = append(complaints, fmt.Sprintf("property %s should not exist", name))
		}
	}
	fields := make(map[string]string)
	for _, name := range names {
		name, optional := strings.CutSuffix(name, "?")
		value, ok := raw[name].(string)
		switch {
		case name == "email" && !isEmail(value):
			complaints = append(complaints, "email must be an email")
		case !ok && !(optional && raw[name] == nil):
			complaints = append(complaints, name+" must be a string")
		}
		fields[name] = value
	}
	if complaints != nil {
		return nil, refuse(http.StatusBadRequest, complaints)
	}
	return fields, nil
}

func parseObject(body []byte) (map[string]any, *refusal) {
	raw := make(map[string]any)
	if len(body) > 0 {
		if err := json.Unmarshal(body, &raw); err != nil || raw == nil {
			return nil, errNotJSON
		}
	}
	return raw, nil
}

// The server checks addresses twice. The first check is validator.js's, less
// quoted local parts, which nobody has: what fails it is refused with 400. It
// lets much through that the second one refuses.
var (
	localPart = regexp.MustCompile("^[a-zA-Z\\d!#$%&'*+\\-/=?^_`{|}~\u00A1-\uD7FF\uF900-\uFDCF\uFDF0-\uFFEF]+$")
	hostLabel = regexp.MustCompile("^[a-zA-Z\\d\u00A1-\uFF00\uFF5F-\uFFFF-]{1,63}$")
	topLabel  = regexp.MustCompile("^([a-zA-Z\u00A1-\u00A8\u00AA-\u167F\u1681-\u1FFF\u200B-\u2027\u202A-\u202E\u2030-\u205E\u2060-\u2FFF\u3001-\uD7FF\uF900-\uFDCF\uFDF0-\uFEFE\uFF00-\uFFEF]{2,}|(?i:xn[a-z\\d-]{2,}))$")
)

func isEmail(s string) bool {
	at := strings.LastIndexByte(s, '@')
	if at < 0 || at > 64 || len(s)-at-1 > 254 {
		return false
	}
	for part := range strings.SplitSeq(s[:at], ".") {
		if !localPart.MatchString(part) {
			return false
		}
	}
	labels := strings.Split(s[at+1:], ".")
	for _, label := range labels {
		if !hostLabel.MatchString(label) || strings.HasPrefix(label, "-") || strings.HasSuffix(label, "-") {
			return false
		}
	}
	return len(labels) > 1 && topLabel.MatchString(labels[len(labels)-1])
}

// plainEmail is the second check, zod's: what fails it is refused with 500.
var plainEmail = regexp.MustCompile(`^[A-Za-z0-9_'+\-.]*[A-Za-z0-9_+-]@([A-Za-z0-9][A-Za-z0-9-]*\.)+[A-Za-z]{2,}$`)

func isPlainEmail(s string) bool {
	return plainEmail.MatchString(s) && !strings.HasPrefix(s, ".") && !strings.Contains(s, "..")
}
