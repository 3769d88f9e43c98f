package session

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestTimeoutsAddUp(t *testing.T) {
	require.GreaterOrEqual(t, leaseTTL, 2*leaseRenewal+leaseRenewal/2, "a renewal may be lost or late")
	require.LessOrEqual(t, leaseTTL+pollLast+knownWait, 4*time.Second, "a holder that died is waited for 4 s at most")
	require.GreaterOrEqual(t, spendingTTL, spendPatience+authTimeout+storeTimeout, "the lease outlives what its owner does under it")
	require.LessOrEqual(t, spendingTTL, 16*time.Second)
	require.GreaterOrEqual(t, askTimeout, linkPatience+spendPatience+authTimeout+commitTime, "a slow link leaves the time to spend a refresh token")
	require.Greater(t, flightTimeout, spendingTTL+askTimeout, "who waits for another process can still take over")
	require.Greater(t, commitTime, storeTimeout, "one attempt to store may fail")
	require.GreaterOrEqual(t, spentTimeout, authTimeout+commitTime, "Close waits for what a refresh token brings")
	require.Less(t, knownWaitSilent, knownWait)
	require.Less(t, storeBrief, storeTimeout)
	require.Greater(t, commitTime, checkTimeout+storeTimeout)
	require.GreaterOrEqual(t, writeBackTimeout, 2*storeTimeout, "a read and a write")
}
