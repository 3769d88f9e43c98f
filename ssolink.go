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
func (a *authClient) fetchLink(ctx context.Context, userID string) (g grant, err error) {
	err = a.repeat(ctx, authCall{
		op: opLinkFetch, method: http.MethodGet, key: true, fresh: true,
		path: linkPath(a.linkPrefix+"/matrix-session/", userID),
		read: func(r *authAnswer) (err error) { g, err = r.servable(); return err },
	})
	if err == nil {
		err = a.verify.granted(ctx, g.token)
	}
	if err != nil {
		return grant{}, err
	}
	return g, nil
}

// linked asks whether the Matrix user has a link.
func (a *authClient) linked(ctx context.Context, userID string) (linked bool, err error) {
	err = a.repeat(ctx, authCall{
		op: opLinkCheck, method: http.MethodGet, key: true, fresh: true,
		path: linkPath(a.linkPrefix+"/matrix-user-links/check/", userID),
		read: func(r *authAnswer) error {
			fields, err := r.object()
			if err == nil && !isBool(fields["linked"]) {
				err = r.unusable("no \"linked\" in the answer")
			}
			linked = err == nil && isTrue(fields["linked"])
			return err
		},
	})
	return linked && err == nil, err
}

// createLink links the Matrix user to the account that bearer belongs to. The
// recorded deployment refuses every such call; corrected ones answer 201.
func (a *authClient) createLink(ctx context.Context, userID, email, bearer string) error {
	err := a.once(ctx, authCall{
		op: opLinkCreate, method: http.MethodPost, path: a.linkPrefix + "/matrix-user-links",
		bearer: bearer, body: map[string]string{"matrixUserId": userID, "email": email},
		read: (*authAnswer).success,
	})
	return err
}

// removeLink removes the Matrix user's link, authenticated by the service key
// or else by the user's own token. It is nil if the link is gone by the server's
// own word, which a link that was not there is.
func (a *authClient) removeLink(ctx context.Context, userID, bearer string) error {
	call := authCall{
		op: opLinkRemove, method: http.MethodDelete,
		path: linkPath(a.linkPrefix+"/matrix-user-links/", userID),
		read: (*authAnswer).success,
	}
	if a.serviceKey.empty() {
		call.bearer = bearer
	} else {
		call.key = true
	}
	err := a.once(ctx, call)
	if errors.Is(err, errNotLinked) {
		return nil
	}
	return err
}

// success returns nil for an answer that says that it is one.
func (r *authAnswer) success() error {
	fields, err := r.object()
	if err == nil && !isTrue(fields["success"]) {
		err = r.unusable("the answer does not say \"success\"")
	}
	return err
}
