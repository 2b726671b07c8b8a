/*-------------------------------------------------------------------------
 *
 * shmem_wait.c
 *	  Requests of backends that wait until a view has applied its log
 *
 * A request lies in the slot of the backend that waits.  The worker that owns the
 * view sees it when it is woken, and answers through the backend's latch.
 *
 * IDENTIFICATION
 *	  src/shmem_wait.c
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "miscadmin.h"
#include "storage/proc.h"
#include "utils/timestamp.h"

#include "compat.h"
#include "kappa.h"
#include "shmem_private.h"

/*
 * Leave a request for the view's workers.  A backend that exits in the middle
 * leaves it behind; whoever answers it then wakes a stranger, who looks and
 * sleeps on.
 */
static uint32
place_request(Oid view)
{
	KappaRequest *request = &kappa_shmem.requests[MyProcNumber];
	uint32 serial;

	LWLockAcquire(kappa_shmem.lock, LW_EXCLUSIVE);
	request->dbid = MyDatabaseId;
	request->view = view;
	request->done = false;
	serial = ++request->serial;
	for (int i = 0; i < kappa_max_views; i++)
		if (kappa_shmem.views[i].dbid == MyDatabaseId && kappa_shmem.views[i].view == view)
			kappa_shmem_wake_worker(kappa_shmem.views[i].owner);
	LWLockRelease(kappa_shmem.lock);
	return serial;
}

static bool
request_done(void)
{
	bool done;

	LWLockAcquire(kappa_shmem.lock, LW_SHARED);
	done = kappa_shmem.requests[MyProcNumber].done;
	LWLockRelease(kappa_shmem.lock);
	return done;
}

static void
withdraw_request(void)
{
	LWLockAcquire(kappa_shmem.lock, LW_EXCLUSIVE);
	kappa_shmem.requests[MyProcNumber].dbid = InvalidOid;
	LWLockRelease(kappa_shmem.lock);
}

bool
kappa_shmem_wait_applied(Oid view, int64 timeout_ms)
{
	TimestampTz deadline = TimestampTzPlusMilliseconds(GetCurrentTimestamp(), timeout_ms);
	volatile bool done = false;

	(void) place_request(view);
	PG_TRY();
	{
		for (;;)
		{
			long left;

			done = request_done();
			left = TimestampDifferenceMilliseconds(GetCurrentTimestamp(), deadline);
			if (done || left <= 0)
				break;
			(void) WaitLatch(MyLatch, WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH,
							 left, WaitEventExtensionNew("KappaWaitFor"));
			ResetLatch(MyLatch);
			CHECK_FOR_INTERRUPTS();
		}
	}
	PG_FINALLY();
	{
		withdraw_request();
	}
	PG_END_TRY();
	return done;
}

/* Whether this worker serves the view; the caller holds the lock. */
static bool
owns_view(Oid view)
{
	for (int i = 0; i < kappa_max_views; i++)
		if (kappa_shmem.views[i].dbid == MyDatabaseId && kappa_shmem.views[i].view == view &&
			kappa_shmem.views[i].owner == MyKappaWorkerSlot)
			return true;
	return false;
}

int
kappa_shmem_get_requests(KappaWaitRequest **result)
{
	int n = 0;

	*result = NULL;
	LWLockAcquire(kappa_shmem.lock, LW_SHARED);
	for (int i = 0; i < MaxBackends; i++)
		n += kappa_shmem.requests[i].dbid == MyDatabaseId;
	LWLockRelease(kappa_shmem.lock);
	if (n == 0)
		return 0;

	*result = palloc(MaxBackends * sizeof(KappaWaitRequest));
	n = 0;
	LWLockAcquire(kappa_shmem.lock, LW_SHARED);
	for (int i = 0; i < MaxBackends; i++)
	{
		if (kappa_shmem.requests[i].dbid != MyDatabaseId || kappa_shmem.requests[i].done ||
			!owns_view(kappa_shmem.requests[i].view))
			continue;
		(*result)[n].procno = i;
		(*result)[n].serial = kappa_shmem.requests[i].serial;
		(*result)[n].view = kappa_shmem.requests[i].view;
		n++;
	}
	LWLockRelease(kappa_shmem.lock);
	return n;
}

void
kappa_shmem_answer(const KappaWaitRequest *answer)
{
	KappaRequest *request = &kappa_shmem.requests[answer->procno];

	LWLockAcquire(kappa_shmem.lock, LW_EXCLUSIVE);
	if (request->dbid == MyDatabaseId && request->serial == answer->serial)
	{
		request->done = true;
		SetLatch(&ProcGlobal->allProcs[answer->procno].procLatch);
	}
	LWLockRelease(kappa_shmem.lock);
}
