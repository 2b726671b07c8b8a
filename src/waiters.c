/*-------------------------------------------------------------------------
 *
 * waiters.c
 *	  Answer backends that wait until a view has applied all of its log
 *
 * The end offsets are asked for after the request was seen, once for all new
 * requests of a source.  A request is met when the stored position of the view
 * has reached them in every partition; while it is not, positions that EOF
 * events have moved are stored at once.
 *
 * IDENTIFICATION
 *	  src/waiters.c
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "utils/memutils.h"

#include "ask.h"
#include "waiters.h"

typedef struct Waiter
{
	KappaWaitRequest request;
	int64 *target; /* end offsets; NULL until they are known */
	int npartitions;
} Waiter;

static List *waiters = NIL;

static bool
same_request(const KappaWaitRequest *a, const KappaWaitRequest *b)
{
	return a->procno == b->procno && a->serial == b->serial && a->view == b->view;
}

static void
forget_waiter(Waiter *waiter)
{
	waiters = list_delete_ptr(waiters, waiter);
	if (waiter->target != NULL)
		pfree(waiter->target);
	pfree(waiter);
}

static Waiter *
find_waiter(const KappaWaitRequest *request)
{
	ListCell *lc;

	foreach(lc, waiters)
		if (same_request(&((Waiter *) lfirst(lc))->request, request))
			return lfirst(lc);
	return NULL;
}

void
kappa_waiters_collect(void)
{
	KappaWaitRequest *requests;
	int n = kappa_shmem_get_requests(&requests);
	List *known = list_copy(waiters);
	ListCell *lc;

	/* Those that have given up. */
	foreach(lc, known)
	{
		Waiter *waiter = lfirst(lc);
		bool present = false;

		for (int i = 0; i < n; i++)
			present |= same_request(&waiter->request, &requests[i]);
		if (!present)
			forget_waiter(waiter);
	}

	for (int i = 0; i < n; i++)
	{
		Waiter *waiter;
		MemoryContext old;

		if (find_waiter(&requests[i]) != NULL)
			continue;
		old = MemoryContextSwitchTo(KappaWorkerContext);
		waiter = palloc0(sizeof(Waiter));
		waiter->request = requests[i];
		waiters = lappend(waiters, waiter);
		MemoryContextSwitchTo(old);
	}
}

/* The live version of the view that is waited for, if it belongs to the source. */
static KappaServed *
find_view(KappaSource *source, Waiter *waiter)
{
	ListCell *lc;

	foreach(lc, source->views)
	{
		KappaServed *served = lfirst(lc);

		if (served->view == waiter->request.view && served->applier->live &&
			served->log_set && !served->reload)
			return served;
	}
	return NULL;
}

bool
kappa_waiters_exist(KappaSource *source)
{
	ListCell *lc;

	foreach(lc, waiters)
		if (find_view(source, lfirst(lc)) != NULL)
			return true;
	return false;
}

/* Give new waiters their target; false if the brokers cannot be asked now. */
static bool
set_targets(KappaSource *source)
{
	bool asked = false;
	ListCell *lc;

	foreach(lc, waiters)
	{
		Waiter *waiter = lfirst(lc);
		Size size = source->npartitions * sizeof(int64);

		if (waiter->target != NULL || find_view(source, waiter) == NULL)
			continue;
		if (!asked && !kappa_ask_all_ends(source))
			return false;
		asked = true;
		waiter->npartitions = source->npartitions;
		waiter->target = MemoryContextAlloc(KappaWorkerContext, Max(size, 1));
		memcpy(waiter->target, source->end, size);
	}
	return true;
}

static bool
is_met(KappaServed *served, Waiter *waiter)
{
	const int64 *next = served->applier->next_offset;

	for (int p = 0; p < Min(waiter->npartitions, served->applier->npartitions); p++)
		if (next[p] < waiter->target[p])
			return false;
	return true;
}

void
kappa_waiters_serve(KappaSource *source)
{
	List *all;
	ListCell *lc;

	if (waiters == NIL || !source->started || !set_targets(source) || !source->settled)
		return;
	all = list_copy(waiters);
	foreach(lc, all)
	{
		Waiter *waiter = lfirst(lc);
		KappaServed *served = find_view(source, waiter);

		if (served == NULL || waiter->target == NULL || !is_met(served, waiter))
			continue;
		kappa_shmem_answer(&waiter->request);
		forget_waiter(waiter);
	}
}
