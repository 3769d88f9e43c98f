package session

import (
	"context"
	"errors"
	"net/http"
	"net/url"
	"strings"
)

// linkable reports whether a user ID may appear in a link call. The server
// decodes IDs twice: one with a '%' would be read as another user's.
func linkable(userID string) bool { return !strings.Contains(userID, "%") }

// linkPath puts a user ID into a path, escaped as JavaScript's
// encodeURIComponent does.
func linkPath(prefix, userID string) string {
	return prefix + asEncodeURIComponent.Replace(url.QueryEscape(userID))
}

// asEncodeURIComponent replaces what QueryEscape writes otherwise. The space is
// what matters: in a path "+" is a plus sign.
var asEncodeURIComponent = strings.NewReplacer(
	"+", "%20", "%21", "!", "%27", "'", "%28", "(", "%29", ")", "%2A", "*",
)

// fetchLink asks for a token of the account that is linked to the Matrix user.
// errNotLinked is a no that still has to be confirmed by linked before a
// session ends on its account: a server that cannot sign says the same.
func (a *authClient) fetchLink(ctx context.Context, userID string) (grant, error) {
	answer, err := a.repeat(ctx, authCall{
		op: "link fetch", method: http.MethodGet, key: true,
		path: linkPath(a.linkPrefix+"/matrix-session/", userID),
	})
	if err != nil {
		return grant{}, err
	}
	g, err := answer.grant()
	if err == nil && !parseToken(g.token).readable {
		return grant{}, answer.unusable("the token is not a JWT")
	}
	if err == nil {
		err = a.verify.granted(ctx, g.token)
	}
	return g, err
}

// linked asks whether the Matrix user has a link.
func (a *authClient) linked(ctx context.Context, userID string) (bool, error) {
	answer, err := a.repeat(ctx, authCall{
		op: "link check", method: http.MethodGet, key: true,
		path: linkPath(a.linkPrefix+"/matrix-user-links/check/", userID),
	})
	if err != nil {
		return false, err
	}
	var body struct {
		Linked *bool `json:"linked"`
	}
	if err := answer.decode(&body); err != nil {
		return false, err
	}
	if body.Linked == nil {
		return false, answer.unusable("no \"linked\" in the answer")
	}
	return *body.Linked, nil
}

// createLink links the Matrix user to the account that bearer belongs to. The
// recorded deployment refuses every such call; corrected ones answer 201.
func (a *authClient) createLink(ctx context.Context, userID, email, bearer string) error {
	_, err := a.once(ctx, authCall{
		op: "link create", method: http.MethodPost, path: a.linkPrefix + "/matrix-user-links",
		bearer: bearer, body: map[string]string{"matrixUserId": userID, "email": email},
	})
	return err
}

// removeLink removes the Matrix user's link, authenticated by the service key
// or else by the user's own token. A link that is not there counts as removed.
func (a *authClient) removeLink(ctx context.Context, userID, bearer string) error {
	call := authCall{
		op: "link remove", method: http.MethodDelete,
		path: linkPath(a.linkPrefix+"/matrix-user-links/", userID),
	}
	if a.serviceKey.empty() {
		call.bearer = bearer
	} else {
		call.key = true
	}
	_, err := a.once(ctx, call)
	if errors.Is(err, errNotLinked) {
		return nil
	}
	return err
}
