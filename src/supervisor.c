/*-------------------------------------------------------------------------
 *
 * supervisor.c
 *	  The process that decides, in one database, which worker serves which view
 *
 * Views that read one topic through the connection of one owner are a group:
 * they are fetched for together.  Each group has a main worker, which serves
 * those of its views that are at the end of the log.  Views that are far
 * behind the others (new, resumed or failed ones, and the shadows of rebuilds)
 * are given to another worker until they have caught up, so that they neither
 * hold up the others nor read the log once each.  Versions that processes replay
 * the log into (fill.c) have no worker meanwhile.
 *
 * The decision is written into shared memory as the wanted worker of each
 * view; the workers act on it between two batches.  The supervisor does so
 * whenever something has changed (a commit that concerns kappa, a worker's
 * report) or a view's time to be tried again has come; otherwise it sleeps.
 * It keeps nothing that a successor would not find: groups are in the catalog,
 * assignments in shared memory.
 *
 * IDENTIFICATION
 *	  src/supervisor.c
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "postmaster/bgworker.h"
#include "postmaster/interrupt.h"
#include "storage/ipc.h"
#include "storage/latch.h"
#include "tcop/tcopprot.h"
#include "utils/guc.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

#include "catalog.h"
#include "compat.h"
#include "fdw_options.h"
#include "fill.h"
#include "fill_run.h"
#include "kappa.h"
#include "launcher.h"
#include "process.h"
#include "rebuild_run.h"
#include "shmem.h"
#include "supervisor.h"
#include "worker.h"

/* Before another try when there was no slot for a background worker. */
#define SLOT_DELAY_MS 1000

/* Before another look at kappa's tables when somebody had locked them. */
#define LOCK_DELAY_MS 1000

/* A version of a view that should run, and its group. */
typedef struct RunnableView
{
	Oid view;
	int32 version;
	int slot;
	bool filling;  /* by processes of its own, see fill.h */
	bool building; /* a rebuild's that may not join the others yet */
	Oid serverid;
	Oid owner;
	char *topic;
} RunnableView;

/* A view in the present round of decisions. */
typedef struct Candidate
{
	RunnableView *runnable; /* NULL: should not run any more */
	KappaViewPlace *place;
	int64 position; /* sum of its next offsets; of groups to be placed only */
	bool assigned;  /* to the worker that the place wants; nobody else knows yet */
} Candidate;

static MemoryContext SupervisorContext;
static MemoryContext RunnableContext; /* of what runnable points to */
static MemoryContext RoundContext;    /* reset before each round */

static List *runnable = NIL;            /* of RunnableView */
static bool views_missing_slot = false; /* said so in the log */
static uint32 wait_event;

/* The present round, in RoundContext. */
static Candidate *candidates;
static int ncandidates;
static KappaWorkerStatus *workers;
static int nworkers;
static int nfillers;      /* of all processes that replay */
static bool slot_missing; /* no worker can be started in this round */

/* ---- what should run ---- */

/*
 * A view whose definition was dropped belongs to no topic.  It gets a worker
 * all the same, which will find that out and stop it.
 */
static void
find_group(RunnableView *view, KappaVersion *version)
{
	const char *topic = NULL;

	view->owner = kappa_options_get_owner(version->view);
	view->serverid = InvalidOid;
	if (OidIsValid(version->source) && OidIsValid(version->definition))
		topic = kappa_options_get_topic(version->source, &view->serverid);
	view->topic = MemoryContextStrdup(RunnableContext, topic == NULL ? "" : topic);
}

static int
find_slot(const KappaViewPlace *places, int n, Oid view, int32 version)
{
	for (int i = 0; i < n; i++)
		if (places[i].view == view && places[i].version == version)
			return places[i].slot;
	return -1;
}

/* The slot of a view, made if there is none; -1 if there is no room. */
static int
get_slot(const KappaViewPlace *places, int n, KappaVersion *version)
{
	int slot = find_slot(places, n, version->view, version->version);

	if (slot < 0)
		slot = kappa_shmem_view_add(version->view, version->version);
	return slot;
}

/* kappa.views tells by itself (kappa_sql_waiting_reason); say it once in the log. */
static void
note_missing_slots(bool missing)
{
	if (missing && !views_missing_slot)
		ereport(WARNING,
				(errcode(ERRCODE_CONFIGURATION_LIMIT_EXCEEDED),
				 errmsg("out of slots for views"),
				 errhint("You might need to increase kappa.max_views.")));
	views_missing_slot = missing;
}

static bool
is_filling(const List *fills, const KappaVersion *version)
{
	ListCell *lc;

	foreach(lc, fills)
	{
		KappaFill *fill = lfirst(lc);

		if (fill->view == version->view && fill->version == version->version)
			return true;
	}
	return false;
}

/*
 * Make runnable of the versions that should run, as far as there are slots for
 * them.  ready: of views, see kappa_rebuild_run_list_ready().
 */
static void
set_runnable(List *versions, List *fills, List *ready)
{
	KappaViewPlace *places;
	ListCell *lc;
	bool missing = false;
	int n = kappa_shmem_get_places(&places);

	foreach(lc, versions)
	{
		KappaVersion *version = lfirst(lc);
		RunnableView *view = MemoryContextAllocZero(RunnableContext, sizeof(RunnableView));
		MemoryContext old;

		view->view = version->view;
		view->version = version->version;
		view->filling = is_filling(fills, version);
		view->building = !version->live && version->kept_until == 0 &&
						 !list_member_oid(ready, version->view);
		view->slot = get_slot(places, n, version);
		if (view->slot < 0)
		{
			missing = true;
			continue;
		}
		find_group(view, version);
		old = MemoryContextSwitchTo(RunnableContext);
		runnable = lappend(runnable, view);
		MemoryContextSwitchTo(old);
	}
	note_missing_slots(missing);
}

/*
 * Read from the catalog what should run.  False if the extension is gone.
 */
static bool
load_runnable(void)
{
	bool installed;

	MemoryContextReset(RunnableContext);
	runnable = NIL;
	SetCurrentStatementStartTimestamp();
	StartTransactionCommand();
	installed = kappa_catalog_hold();
	if (installed)
	{
		/* Whoever sees a version in the first sees what was made with it in the others. */
		List *versions = kappa_catalog_list_runnable();
		List *fills = kappa_fill_list();
		List *ready = kappa_rebuild_run_list_ready();

		set_runnable(versions, fills, ready);
	}
	CommitTransactionCommand();
	MemoryContextSwitchTo(RoundContext);
	return installed;
}

/* ---- the workers ---- */

static KappaWorkerStatus *
get_worker(int slot)
{
	for (int i = 0; i < nworkers; i++)
		if (workers[i].id.slot == slot)
			return &workers[i];
	return NULL;
}

static bool
same_group(const RunnableView *a, const RunnableView *b)
{
	return a->serverid == b->serverid && a->owner == b->owner &&
		   strcmp(a->topic, b->topic) == 0;
}

/* Whether a worker serves, or is to serve, views of a group. */
static bool
serves_group(int worker, const RunnableView *view)
{
	for (int i = 0; i < ncandidates; i++)
		if (candidates[i].runnable != NULL && candidates[i].place->wanted == worker &&
			same_group(candidates[i].runnable, view))
			return true;
	return false;
}

/* The slot of the main worker of a group; -1 if it has none. */
static int
find_main_worker(const RunnableView *view)
{
	for (int i = 0; i < nworkers; i++)
		if (!workers[i].catchup && !workers[i].stop &&
			serves_group(workers[i].id.slot, view))
			return workers[i].id.slot;
	return -1;
}

/* The number of groups that a worker serves. */
static int
count_groups(int worker)
{
	int n = 0;

	for (int i = 0; i < ncandidates; i++)
	{
		bool counted = false;

		if (candidates[i].runnable == NULL || candidates[i].place->wanted != worker)
			continue;
		for (int j = 0; j < i && !counted; j++)
			counted = candidates[j].runnable != NULL &&
					  candidates[j].place->wanted == worker &&
					  same_group(candidates[i].runnable, candidates[j].runnable);
		n += !counted;
	}
	return n;
}

static int
count_workers(bool main_only)
{
	int n = 0;

	for (int i = 0; i < nworkers; i++)
		n += !workers[i].stop && !(main_only && workers[i].catchup);
	return n;
}

/* The least busy worker of a kind that does not serve the group yet; -1 if there is none. */
static int
find_least_busy(bool catchup, const RunnableView *view)
{
	int best = -1;
	int best_groups = 0;

	for (int i = 0; i < nworkers; i++)
	{
		int slot = workers[i].id.slot;
		int groups;

		if (workers[i].stop || workers[i].catchup != catchup || serves_group(slot, view))
			continue;
		groups = count_groups(slot);
		if (best < 0 || groups < best_groups)
		{
			best = slot;
			best_groups = groups;
		}
	}
	return best;
}

/* How many workers may serve views that are not behind. */
static int
max_main_workers(void)
{
	return Max(kappa_max_workers - 1, 1);
}

/* Start a worker for a group; -1 if there is no slot for its process. */
static int
start_worker(const RunnableView *view, bool catchup)
{
	KappaProcessId id;

	if (slot_missing || !kappa_process_start_worker(view->topic, catchup, &id))
	{
		slot_missing = true;
		return -1;
	}

	workers = repalloc(workers, (nworkers + 1) * sizeof(KappaWorkerStatus));
	memset(&workers[nworkers], 0, sizeof(KappaWorkerStatus));
	workers[nworkers].id = id;
	workers[nworkers].catchup = catchup;
	nworkers++;
	return id.slot;
}

/* ---- replays ---- */

/* Start processes for a version that is to be filled, as many as there may be. */
static void
start_fillers_for(const RunnableView *view, const KappaViewPlace *place, TimestampTz now)
{
	int n = kappa_process_count_fillers(view->view, view->version);
	bool may = nfillers < kappa_rebuild_workers;

	for (; n < kappa_rebuild_workers && nfillers < kappa_rebuild_workers; n++)
	{
		if (!kappa_process_start_filler(view->topic, view->view, view->version))
			break;
		nfillers++;
		if (n == 0)
			kappa_shmem_view_postpone(place->slot, KAPPA_REPLAYING_REASON, 0);
	}
	/* A worker may have had the view in between, and said that it was catching up. */
	if (n > 0 && place->state == KAPPA_RUN_CATCHING_UP)
		kappa_shmem_view_postpone(place->slot, KAPPA_REPLAYING_REASON, 0);
	if (n == 0 && may)
		kappa_shmem_view_postpone(place->slot,
								  "waiting for a background worker slot; max_worker_processes may be too small",
								  TimestampTzPlusMilliseconds(now, SLOT_DELAY_MS));
	/* Those of another version may read for this one, too, and say so. */
	else if (n == 0 && place->state != KAPPA_RUN_WAITING)
		kappa_shmem_view_postpone(place->slot, "waiting for a process to replay the log", 0);
}

/* They exit when there is nothing left to do. */
static void
start_fillers(TimestampTz now)
{
	for (int i = 0; i < ncandidates; i++)
	{
		RunnableView *view = candidates[i].runnable;
		KappaViewPlace *place = candidates[i].place;

		if (view != NULL && view->filling && place->owner < 0 && place->retry_at <= now)
			start_fillers_for(view, place, now);
	}
}

/* ---- placing views ---- */

static void
assign(Candidate *candidate, int worker)
{
	candidate->place->wanted = worker;
	candidate->assigned = true;
}

/*
 * Tell the workers what has been assigned, all at once: views of a group that are
 * new together come to their worker together, and so are read for together.
 */
static void
publish_assignments(void)
{
	KappaAssignment *assignments = palloc(Max(ncandidates, 1) * sizeof(KappaAssignment));
	int n = 0;

	for (int i = 0; i < ncandidates; i++)
	{
		KappaViewPlace *place = candidates[i].place;

		if (!candidates[i].assigned)
			continue;
		assignments[n].slot = place->slot;
		assignments[n++].worker = get_worker(place->wanted)->id;
		candidates[i].assigned = false;
	}
	if (n > 0)
		kappa_shmem_assign_views(assignments, n);
}

/*
 * A worker that serves the group's views at the end of the log.  When there
 * may be no more workers, or no process for one is to be had, groups share
 * one.  -1: there is none at all, see slot_missing for the reason.
 */
static int
get_main_worker(const RunnableView *view)
{
	int worker = find_main_worker(view);

	if (worker < 0 && count_workers(true) < max_main_workers() &&
		count_workers(false) < kappa_max_workers)
		worker = start_worker(view, false);
	if (worker < 0)
		worker = find_least_busy(false, view);
	if (worker < 0)
		worker = find_least_busy(true, view);
	return worker;
}

/*
 * The worker that serves views of the group that are behind, -1 if there is
 * none; and the position of the one that is furthest behind there.
 */
static int
find_catchup_worker(const RunnableView *view, int64 *position)
{
	int worker = -1;

	*position = PG_INT64_MAX;
	for (int i = 0; i < nworkers && worker < 0; i++)
		if (workers[i].catchup && !workers[i].stop &&
			serves_group(workers[i].id.slot, view))
			worker = workers[i].id.slot;
	for (int i = 0; i < ncandidates && worker >= 0; i++)
		if (candidates[i].runnable != NULL && candidates[i].place->wanted == worker &&
			same_group(candidates[i].runnable, view))
			*position = Min(*position, candidates[i].position);
	return worker;
}

/*
 * A worker for a view that is behind, or has failed: the one that is behind as
 * far, a new one, one that does something else.  When there may be no more
 * workers, views of a group share one and read again what some of them have;
 * but a failing view must not make the others do that time and again.
 */
static int
get_catchup_worker(Candidate *candidate)
{
	RunnableView *view = candidate->runnable;
	bool failing = candidate->place->failing;
	int64 position;
	int worker = find_catchup_worker(view, &position);
	int other;

	if (kappa_max_workers == 1)
		return get_main_worker(view);
	if (worker >= 0 && !failing && candidate->position >= position - kappa_batch_rows &&
		candidate->position <= position + kappa_batch_rows)
		return worker;
	if (count_workers(false) < kappa_max_workers)
		return start_worker(view, true);
	other = find_least_busy(true, view);
	if (other >= 0 || failing)
		return other;
	return worker;
}

/*
 * A view has caught up in its own worker: it joins the others.  The first of a
 * group to do so turns its worker into the main one, if there may be one more.
 */
static void
join_main_worker(Candidate *candidate)
{
	KappaViewPlace *place = candidate->place;
	KappaWorkerStatus *worker = get_worker(place->owner);
	int target;

	if (candidate->runnable == NULL || !place->caught_up || worker == NULL ||
		!worker->catchup || place->wanted != place->owner)
		return;

	target = find_main_worker(candidate->runnable);
	if (target < 0 && count_workers(true) < max_main_workers())
	{
		kappa_shmem_worker_set_catchup(&worker->id, false);
		worker->catchup = false;
		return;
	}
	if (target < 0)
		target = find_least_busy(false, candidate->runnable);
	if (target >= 0)
		assign(candidate, target);
}

/*
 * kappa.max_workers may be less than it was: who serves least goes, main workers
 * first, since they would never leave room for one that serves views that are
 * behind.  The views are placed anew when their worker has gone.
 */
static void
stop_excess_workers(void)
{
	for (;;)
	{
		bool excess = count_workers(false) > kappa_max_workers;
		bool main_excess = count_workers(true) > max_main_workers();
		int slot = -1;
		int least = 0;

		for (int i = 0; i < nworkers; i++)
		{
			int groups = count_groups(workers[i].id.slot);

			if (workers[i].stop || (main_excess && workers[i].catchup))
				continue;
			if (slot < 0 || groups < least)
			{
				slot = workers[i].id.slot;
				least = groups;
			}
		}
		if (slot < 0 || (!excess && !main_excess))
			break;
		kappa_shmem_worker_stop(&get_worker(slot)->id);
		get_worker(slot)->stop = true;
	}
}

static bool
is_due(Candidate *candidate, TimestampTz now)
{
	KappaViewPlace *place = candidate->place;

	return candidate->runnable != NULL && !candidate->runnable->filling &&
		   place->owner < 0 && place->wanted < 0 && place->retry_at <= now;
}

static int64
get_position(Candidate *candidate)
{
	KappaPosition *position = kappa_catalog_get_position(candidate->place->view,
														 candidate->place->version);
	int64 sum = 0;

	for (int p = 0; position != NULL && p < position->npartitions; p++)
		sum += Max(position->next_offset[p], 0);
	return sum;
}

/*
 * Read the positions of all views of a group, into the candidates.  They are
 * as of now for those that nobody serves, and close enough for the others.
 */
static void
read_positions(const RunnableView *view)
{
	StartTransactionCommand();
	if (kappa_catalog_hold())
		for (int i = 0; i < ncandidates; i++)
			if (candidates[i].runnable != NULL && same_group(candidates[i].runnable, view))
				candidates[i].position = get_position(&candidates[i]);
	CommitTransactionCommand();
	MemoryContextSwitchTo(RoundContext);
}

static void
postpone(Candidate *candidate, TimestampTz now)
{
	if (slot_missing)
		kappa_shmem_view_postpone(candidate->place->slot,
								  "waiting for a background worker slot; max_worker_processes may be too small",
								  TimestampTzPlusMilliseconds(now, SLOT_DELAY_MS));
	else
		kappa_shmem_view_postpone(candidate->place->slot,
								  "waiting for a worker (kappa.max_workers)", 0);
}

/* The position of a group's main worker; -1 if it has none. */
static int64
get_main_position(const RunnableView *view)
{
	int worker = find_main_worker(view);
	int64 result = -1;

	for (int i = 0; i < ncandidates && worker >= 0; i++)
		if (candidates[i].runnable != NULL && candidates[i].place->wanted == worker &&
			same_group(candidates[i].runnable, view))
			result = Max(result, candidates[i].position);
	return result;
}

static int
compare_candidates(const ListCell *a, const ListCell *b)
{
	const Candidate *first = lfirst(a);
	const Candidate *second = lfirst(b);

	/* Those that failed last; then those that are furthest first. */
	if (first->place->failing != second->place->failing)
		return first->place->failing ? 1 : -1;
	if (first->position != second->position)
		return first->position > second->position ? -1 : 1;
	return 0;
}

/*
 * Give workers to the views of one group that have none.  Those that stand
 * close together stay together, and the first lot is the main worker's if that
 * stands there, too, or does not exist yet.  A rebuild that lacks indexes is not
 * among them, however close it is: the others would wait while they are built.
 */
static void
place_group(List *due, TimestampTz now)
{
	Candidate *previous = NULL;
	ListCell *lc;
	int worker = -1;

	read_positions(((Candidate *) linitial(due))->runnable);
	list_sort(due, compare_candidates);
	foreach(lc, due)
	{
		Candidate *candidate = lfirst(lc);
		RunnableView *view = candidate->runnable;
		int64 main_position = get_main_position(view);
		bool close = main_position < 0 ||
					 candidate->position >= main_position - kappa_batch_rows;

		if (previous != NULL && worker >= 0 &&
			previous->place->failing == candidate->place->failing &&
			previous->runnable->building == view->building &&
			previous->position - candidate->position <= kappa_batch_rows)
			/* goes where the previous one went */;
		else if (close && !candidate->place->failing && !view->building)
			worker = get_main_worker(view);
		else
			worker = get_catchup_worker(candidate);

		if (worker >= 0)
			assign(candidate, worker);
		else
			postpone(candidate, now);
		previous = candidate;
	}
	publish_assignments();
}

/* Give workers to all views that have none and whose time has come. */
static void
place_views(TimestampTz now)
{
	for (int i = 0; i < ncandidates; i++)
	{
		List *due = NIL;
		bool done = false;

		if (!is_due(&candidates[i], now))
			continue;
		for (int j = 0; j < i && !done; j++)
			done = is_due(&candidates[j], now) &&
				   same_group(candidates[i].runnable, candidates[j].runnable);
		if (done)
			continue;
		for (int j = i; j < ncandidates; j++)
			if (is_due(&candidates[j], now) &&
				same_group(candidates[i].runnable, candidates[j].runnable))
				due = lappend(due, &candidates[j]);
		place_group(due, now);
	}
}

static RunnableView *
find_runnable(int slot)
{
	ListCell *lc;

	foreach(lc, runnable)
		if (((RunnableView *) lfirst(lc))->slot == slot)
			return lfirst(lc);
	return NULL;
}

/* Those that replay are counted, and serve nobody. */
static void
load_workers(void)
{
	int n = kappa_shmem_get_workers(&workers);

	nworkers = 0;
	nfillers = 0;
	for (int i = 0; i < n; i++)
	{
		if (workers[i].filler)
			nfillers++;
		else
			workers[nworkers++] = workers[i];
	}
}

static void
load_candidates(void)
{
	KappaViewPlace *places;

	ncandidates = kappa_shmem_get_places(&places);
	load_workers();
	candidates = palloc0(Max(ncandidates, 1) * sizeof(Candidate));
	for (int i = 0; i < ncandidates; i++)
	{
		candidates[i].place = &places[i];
		candidates[i].runnable = find_runnable(places[i].slot);
		if (candidates[i].runnable == NULL)
			(void) kappa_shmem_view_remove(places[i].slot);
	}
}

/*
 * When to look again if nothing happens: when the first view is due.  One that
 * was left without a worker for want of kappa.max_workers is not waited for:
 * whoever goes, wakes us.
 */
static TimestampTz
next_moment(TimestampTz now)
{
	TimestampTz next = 0;
	KappaViewPlace *places;
	int n = kappa_shmem_get_places(&places);

	for (int i = 0; i < n; i++)
	{
		KappaViewPlace *place = &places[i];

		if (place->owner < 0 && place->wanted < 0 && place->retry_at > now &&
			(next == 0 || place->retry_at < next))
			next = place->retry_at;
	}
	return next;
}

/* One round of decisions; returns when the next is due, or 0. */
static TimestampTz
decide(void)
{
	TimestampTz now = GetCurrentTimestamp();

	slot_missing = kappa_process_collect();
	load_candidates();
	stop_excess_workers();
	for (int i = 0; i < ncandidates; i++)
		join_main_worker(&candidates[i]);
	publish_assignments();
	place_views(now);
	start_fillers(now);
	return next_moment(now);
}

/* ---- the process ---- */

/*
 * The extension is gone.  Its workers have nothing to do any more; what they
 * may be doing fails by itself.
 */
static void
retire(void)
{
	KappaWorkerStatus *statuses;

	runnable = NIL;
	kappa_shmem_stop_workers();
	for (;;)
	{
		MemoryContextReset(RoundContext);
		(void) kappa_process_collect();
		load_candidates();
		if (kappa_shmem_get_workers(&statuses) == 0)
			break;
		kappa_launcher_sleep(0, wait_event);
	}
	kappa_shmem_database_report(KAPPA_DATABASE_ABSENT);
	proc_exit(0);
}

static void
init_supervisor(void)
{
	KappaProcessId id;

	pqsignal(SIGHUP, SignalHandlerForConfigReload);
	pqsignal(SIGTERM, die);
	BackgroundWorkerUnblockSignals();
	memcpy(&id, MyBgworkerEntry->bgw_extra, sizeof(id));
	if (!kappa_shmem_attach_supervisor(&id))
		proc_exit(0);
	BackgroundWorkerInitializeConnectionByOid(id.dbid, InvalidOid, 0);
	kappa_worker_pin_settings();
	SetConfigOption("application_name", "kappa supervisor", PGC_USERSET, PGC_S_SESSION);

	SupervisorContext = AllocSetContextCreate(TopMemoryContext, "kappa supervisor",
											  ALLOCSET_DEFAULT_SIZES);
	RunnableContext = AllocSetContextCreate(SupervisorContext, "kappa runnable views",
											ALLOCSET_DEFAULT_SIZES);
	RoundContext = AllocSetContextCreate(SupervisorContext, "kappa supervisor round",
										 ALLOCSET_DEFAULT_SIZES);
	wait_event = WaitEventExtensionNew("KappaSupervisorMain");
}

/*
 * One round: read the catalog if something has changed there, and decide.
 * Returns when the next one is due, or 0.
 */
static TimestampTz
run_round(void)
{
	static bool loaded = false;
	static bool serving = false;

	loaded &= !kappa_shmem_take_reload();
	if (!loaded)
	{
		if (!load_runnable())
			retire();
		loaded = true;
	}
	if (!serving)
		kappa_shmem_database_report(KAPPA_DATABASE_SERVING);
	serving = true;
	return decide();
}

/*
 * Likewise.  Whoever has locked kappa's tables, or is about to drop the
 * extension, is not waited for: what is assigned stays so, and is looked at
 * again soon.
 */
static TimestampTz
try_round(void)
{
	volatile TimestampTz next = 0;

	PG_TRY();
	{
		next = run_round();
	}
	PG_CATCH();
	{
		if (geterrcode() != ERRCODE_LOCK_NOT_AVAILABLE &&
			geterrcode() != ERRCODE_T_R_DEADLOCK_DETECTED)
			PG_RE_THROW();
		MemoryContextSwitchTo(RoundContext);
		FlushErrorState();
		AbortOutOfAnyTransaction();
		next = TimestampTzPlusMilliseconds(GetCurrentTimestamp(), LOCK_DELAY_MS);
	}
	PG_END_TRY();
	return next;
}

void
kappa_supervisor_main(Datum arg)
{
	init_supervisor();
	for (;;)
	{
		TimestampTz next;

		if (kappa_shmem_stopping())
			proc_exit(0);
		MemoryContextReset(RoundContext);
		MemoryContextSwitchTo(RoundContext);
		(void) kappa_shmem_take_attention();
		next = try_round();
		pgstat_report_activity(STATE_IDLE, NULL);
		kappa_launcher_sleep(next, wait_event);
	}
}
