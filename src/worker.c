/*-------------------------------------------------------------------------
 *
 * worker.c
 *	  The process that applies messages to a set of views
 *
 * A worker owns the views that shared memory says it owns.  Between two
 * deliveries it looks there: takes views that it is wanted for, gives up those
 * that it is not wanted for any more.  Its sources fetch outside any
 * transaction; a delivery is one transaction.
 *
 * Errors are of three kinds.  One of a view makes that view leave, and the
 * supervisor try it again later, beside the others.  Trouble with the brokers
 * is waited for, here.  Whatever else is thrown ends the process, and the
 * supervisor starts another.
 *
 * The wait is for the latch and for the sockets of all consumers together, and
 * has a timeout only when something is due: an idle worker does nothing.
 *
 * IDENTIFICATION
 *	  src/worker.c
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
#include "utils/inval.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"
#include "utils/syscache.h"
#include "utils/timestamp.h"

#include "ask.h"
#include "compat.h"
#include "definition.h"
#include "deliver.h"
#include "fdw_options.h"
#include "fill.h"
#include "kappa.h"
#include "rebuild.h"
#include "source.h"
#include "waiters.h"
#include "worker.h"

/* How long a worker stays without views before it exits. */
#define IDLE_EXIT_MS 1000

MemoryContext KappaWorkerContext;
MemoryContext KappaRoundContext;
List *kappa_worker_views = NIL;

static bool connections_changed = false;
static uint32 wait_event;

/* ---- transactions ---- */

/* Nothing is left to do without the extension, and nobody to tell about it. */
void
kappa_worker_begin(void)
{
	StartTransactionCommand();
	if (!kappa_catalog_hold())
		proc_exit(0);
}

/* ---- errors ---- */

ErrorData *
kappa_worker_attempt(void (*step)(void *arg), void *arg)
{
	ErrorData *volatile error = NULL;

	Assert(CurrentMemoryContext == KappaRoundContext);
	PG_TRY();
	{
		step(arg);
	}
	PG_CATCH();
	{
		MemoryContextSwitchTo(KappaRoundContext);
		error = CopyErrorData();
		if (error->sqlerrcode == ERRCODE_QUERY_CANCELED && kappa_apply_current == NULL)
			PG_RE_THROW();
		FlushErrorState();
		AbortOutOfAnyTransaction();
		kappa_batch_unbind_all();
		kappa_apply_current = NULL;
	}
	PG_END_TRY();
	MemoryContextSwitchTo(KappaRoundContext);
	return error;
}

char *
kappa_worker_describe_error(const ErrorData *error)
{
	StringInfoData text;

	initStringInfo(&text);
	appendStringInfoString(&text, error->message);
	if (error->detail != NULL)
		appendStringInfo(&text, "\nDETAIL: %s", error->detail);
	if (error->hint != NULL)
		appendStringInfo(&text, "\nHINT: %s", error->hint);
	return text.data;
}

static void
log_failure(KappaServed *served, const ErrorData *error, const char *what)
{
	const char *name = served->applier != NULL ? served->applier->name : served->name;

	ereport(WARNING,
			(errcode(error->sqlerrcode),
			 errmsg("view \"%s\" %s: %s", name != NULL ? name : "?", what, error->message),
			 error->detail ? errdetail_internal("%s", error->detail) : 0,
			 error->hint ? errhint("%s", error->hint) : 0,
			 error->context ? errcontext("%s", error->context) : 0));
}

typedef struct EventStep
{
	KappaServed *served;
	const char *event;
	const char *sqlstate;
	const char *detail;
} EventStep;

static void
add_event_step(void *arg)
{
	EventStep *step = arg;

	kappa_worker_begin();
	kappa_catalog_add_event(step->served->view, step->event, step->served->version,
							step->sqlstate, step->detail);
	CommitTransactionCommand();
}

/* That an event could not be recorded is no reason to do anything else. */
void
kappa_worker_add_event(KappaServed *served, const char *event,
					   const char *sqlstate, const char *detail)
{
	EventStep step = { served, event, sqlstate, detail };
	ErrorData *error = kappa_worker_attempt(add_event_step, &step);

	if (error != NULL)
		ereport(LOG,
				(errcode(error->sqlerrcode),
				 errmsg("could not record an event: %s", error->message)));
}

/* ---- the set of views ---- */

/* Close what is open of a view, but keep it. */
static void
close_view(KappaServed *served)
{
	if (served->source != NULL)
		kappa_source_remove_view(served);
	if (served->applier != NULL)
		kappa_apply_close(served->applier);
	served->applier = NULL;
	served->log_set = false;
}

static void
forget_view(KappaServed *served)
{
	close_view(served);
	kappa_rebuild_forget(served->view);
	kappa_worker_views = list_delete_ptr(kappa_worker_views, served);
	MemoryContextDelete(served->context);
}

typedef struct StopStep
{
	KappaServed *served;
	const char *reason;
} StopStep;

/* A rebuild that cannot go on ends alone; the live version does not. */
static void
stop_view_step(void *arg)
{
	StopStep *step = arg;
	KappaServed *served = step->served;
	KappaVersion *version;

	kappa_worker_begin();
	version = kappa_catalog_get_version(served->view, served->version);
	if (version != NULL && !version->live)
		kappa_rebuild_fail(served->view, served->version, step->reason);
	else if (version != NULL)
		kappa_catalog_set_state(served->view, KAPPA_VIEW_STOPPED, step->reason, "stopped");
	CommitTransactionCommand();
}

/*
 * Returns NULL, or why it could not be stopped (a lock, perhaps): then it is
 * tried again, and meets the same end once more.
 */
static ErrorData *
stop_view(KappaServed *served, ErrorData *error)
{
	StopStep step = { served, kappa_worker_describe_error(error) };
	ErrorData *trouble = kappa_worker_attempt(stop_view_step, &step);

	if (trouble != NULL)
		return trouble;
	log_failure(served, error, "is stopped");
	kappa_shmem_view_release(served->slot);
	kappa_shmem_wake_supervisor(true);
	kappa_shmem_announce_change();
	forget_view(served);
	return NULL;
}

/* A version that is gone leaves without a word. */
static void
leave_quietly(KappaServed *served)
{
	kappa_shmem_view_release(served->slot);
	kappa_shmem_wake_supervisor(true);
	forget_view(served);
}

typedef struct PresenceStep
{
	KappaServed *served;
	bool gone;
} PresenceStep;

static void
check_presence_step(void *arg)
{
	PresenceStep *step = arg;
	KappaServed *served = step->served;

	kappa_worker_begin();
	step->gone = kappa_catalog_get_version(served->view, served->version) == NULL;
	if (!step->gone && served->name == NULL)
		served->name = MemoryContextStrdup(served->context,
										   kappa_definition_relation_name(served->view));
	CommitTransactionCommand();
}

/* A view that was dropped in the middle of a delivery fails, too. */
static bool
is_gone(KappaServed *served)
{
	PresenceStep step = { .served = served };

	return kappa_worker_attempt(check_presence_step, &step) == NULL && step.gone;
}

/*
 * The event is written while the view is still ours, so that "failed" comes
 * before the "recovered" of the next owner.
 */
void
kappa_worker_fail_view(KappaServed *served, ErrorData *error, const char *where)
{
	char *reason;

	if (is_gone(served))
	{
		leave_quietly(served);
		return;
	}
	if (error->sqlerrcode == ERRCODE_KAPPA_STOP)
	{
		error = stop_view(served, error);
		if (error == NULL)
			return;
	}
	reason = error->message;
	if (where != NULL)
		reason = psprintf("%s (%s)", reason, where);
	if (kappa_shmem_view_suspend(served->slot, error->sqlerrcode, reason,
								 GetCurrentTimestamp()))
	{
		log_failure(served, error, "will be tried again");
		kappa_worker_add_event(served, "failed", unpack_sql_state(error->sqlerrcode), reason);
	}
	(void) kappa_shmem_view_failed(served->slot, error->sqlerrcode, reason);
	forget_view(served);
}

void
kappa_worker_suspend_view(KappaServed *served, const ErrorData *error, TimestampTz retry_at)
{
	char *reason = kappa_worker_describe_error(error);

	served->troubled = true;
	if (kappa_shmem_view_suspend(served->slot, error->sqlerrcode, reason, retry_at))
	{
		log_failure(served, error, "waits for its topic");
		kappa_worker_add_event(served, "failed", unpack_sql_state(error->sqlerrcode), reason);
	}
}

void
kappa_worker_resume_view(KappaServed *served)
{
	const char *event;

	if (!served->troubled)
		return;
	served->troubled = false;
	served->failing = false;
	served->state = KAPPA_RUN_CATCHING_UP;
	event = kappa_shmem_view_recovered(served->slot);
	if (event != NULL)
		kappa_worker_add_event(served, event, NULL, NULL);
}

static void
open_view_step(void *arg)
{
	KappaServed *served = arg;

	kappa_worker_begin();
	PushActiveSnapshot(GetTransactionSnapshot());
	MemoryContextSwitchTo(KappaWorkerContext);
	served->applier = kappa_apply_open(served->view, served->version);
	if (served->applier != NULL)
	{
		bool limited = served->applier->message_rate > 0;

		MemoryContextSwitchTo(served->context);
		if ((served->opened_at == 0 && !served->caught_up) || limited != served->limited)
			served->check = kappa_catalog_get_last_messages(served->view, served->version);
		served->limited = limited;
		MemoryContextSwitchTo(CurTransactionContext);
		served->with_headers = kappa_options_reads(kappa_options_get_table(served->applier->relid),
												   served->applier->columns,
												   KAPPA_SOURCE_HEADERS);
	}
	PopActiveSnapshot();
	CommitTransactionCommand();
}

/*
 * Open a view and put it to its source.  One that caught up in another worker
 * has been compared with the log there.
 */
static void
open_view(KappaServed *served)
{
	ErrorData *error = kappa_worker_attempt(open_view_step, served);

	if (error != NULL)
		kappa_worker_fail_view(served, error, NULL);
	else if (served->applier == NULL)
		leave_quietly(served);
	else
	{
		served->reload = false;
		served->opened_at = GetCurrentTimestamp();
		served->rebuild_at = served->applier->live ? 0 : served->opened_at;
		kappa_source_add_view(served);
	}
}

static void
take_view(const KappaViewPlace *place)
{
	MemoryContext context = AllocSetContextCreate(KappaWorkerContext, "kappa served view",
												  ALLOCSET_SMALL_SIZES);
	KappaServed *served = MemoryContextAllocZero(context, sizeof(KappaServed));

	served->context = context;
	served->slot = place->slot;
	served->view = place->view;
	served->version = place->version;
	served->state = place->state;
	served->troubled = place->state == KAPPA_RUN_RETRYING;
	served->failing = place->failing;
	served->caught_up = place->caught_up;
	MemoryContextSwitchTo(KappaWorkerContext);
	kappa_worker_views = lappend(kappa_worker_views, served);
	MemoryContextSwitchTo(KappaRoundContext);
	kappa_shmem_view_set_state(served->slot, KAPPA_RUN_CATCHING_UP);
	if (!served->troubled)
		served->state = KAPPA_RUN_CATCHING_UP;
	open_view(served);
}

static KappaServed *
find_served(int slot)
{
	ListCell *lc;

	foreach(lc, kappa_worker_views)
		if (((KappaServed *) lfirst(lc))->slot == slot)
			return lfirst(lc);
	return NULL;
}

/* Messages in hand belong to the views that were there when they were fetched. */
static void
deliver_all(void)
{
	List *sources = list_copy(kappa_sources);
	ListCell *lc;

	foreach(lc, sources)
	{
		KappaSource *source = lfirst(lc);

		if (source->nmessages > 0 || source->advanced || source->unrecorded)
			kappa_deliver(source);
	}
}

static void
set_application_name(void)
{
	StringInfoData name;
	ListCell *lc;

	initStringInfo(&name);
	appendStringInfoString(&name, list_length(kappa_sources) == 1
									  ? "kappa worker: topic "
									  : "kappa worker: topics ");
	foreach(lc, kappa_sources)
		appendStringInfo(&name, "%s%s", foreach_current_index(lc) > 0 ? ", " : "",
						 ((KappaSource *) lfirst(lc))->name);
	SetConfigOption("application_name", kappa_sources == NIL ? "kappa worker" : name.data,
					PGC_USERSET, PGC_S_SESSION);
}

/* Do what shared memory says about the set. */
static void
update_set(void)
{
	KappaViewPlace *places;
	int n;

	deliver_all();
	n = kappa_shmem_take_views(&places);
	for (int i = 0; i < n; i++)
	{
		KappaServed *served = find_served(places[i].slot);

		if (places[i].owner == places[i].wanted)
		{
			if (served == NULL)
				take_view(&places[i]);
			continue;
		}
		if (served != NULL)
			forget_view(served);
		kappa_shmem_view_release(places[i].slot);
	}
	kappa_source_sweep();
	set_application_name();
}

/*
 * All of them: until it is opened anew a version gets no messages, which would
 * part it from the others.
 */
void
kappa_worker_reload(Oid view)
{
	ListCell *lc;

	foreach(lc, kappa_worker_views)
		if (((KappaServed *) lfirst(lc))->view == view)
			((KappaServed *) lfirst(lc))->reload = true;
}

/* Open anew the views that an invalidation has touched. */
static void
reload_views(void)
{
	bool changed = false;
	List *views;
	ListCell *lc;

	foreach(lc, kappa_worker_views)
	{
		KappaServed *served = lfirst(lc);

		if (!kappa_apply_is_valid(served->applier))
			kappa_worker_reload(served->view);
		changed |= served->reload;
	}
	if (!changed)
		return;

	deliver_all();
	views = list_copy(kappa_worker_views);
	foreach(lc, views)
	{
		KappaServed *served = lfirst(lc);

		if (!served->reload)
			continue;
		close_view(served);
		open_view(served);
	}
	kappa_source_sweep();
	set_application_name();
}

static void
note_connection_change(Datum arg, int cacheid, uint32 hashvalue)
{
	connections_changed = true;
}

/* ---- catching up, and rebuilds ---- */

typedef struct RebuildStep
{
	KappaServed *shadow;
	KappaServed *live; /* or NULL */
	KappaRebuildAction action;
	int delay_ms;
} RebuildStep;

static void
rebuild_step(void *arg)
{
	RebuildStep *step = arg;

	/* Not "close to the end": a short log is that from its start on. */
	step->action = kappa_rebuild_step(step->shadow->applier,
									  step->live != NULL ? step->live->applier : NULL,
									  kappa_source_has_seen_ends(step->shadow->source),
									  &step->delay_ms);
}

static KappaServed *
find_live(KappaServed *shadow)
{
	ListCell *lc;

	foreach(lc, shadow->source->views)
	{
		KappaServed *served = lfirst(lc);

		if (served->view == shadow->view && served->applier->live && served->log_set)
			return served;
	}
	return NULL;
}

/* Take a rebuild a step further, and do what it says. */
static void
serve_shadow(KappaServed *shadow, TimestampTz now)
{
	RebuildStep step = { .shadow = shadow, .live = find_live(shadow), .delay_ms = -1 };
	ErrorData *error = kappa_worker_attempt(rebuild_step, &step);

	if (error != NULL)
	{
		kappa_worker_fail_view(shadow, error, NULL);
		return;
	}
	shadow->rebuild_at = 0;
	if (step.delay_ms >= 0)
		shadow->rebuild_at = TimestampTzPlusMilliseconds(now, step.delay_ms);
	switch (step.action)
	{
		case KAPPA_REBUILD_CONTINUE:
			break;
		case KAPPA_REBUILD_JOIN:
			kappa_shmem_view_caught_up(shadow->slot);
			break;
		case KAPPA_REBUILD_RELOAD:
			kappa_worker_reload(shadow->view);
			kappa_shmem_wake_supervisor(true);
			kappa_shmem_announce_change();
			break;
	}
}

/*
 * Tell the supervisor who may join the others; rebuilds decide for themselves.
 * These are looked at after each delivery, whoever had reason to make it: at
 * the end of a log that stands still there may never be another one.
 */
static void
serve_views(KappaSource *source)
{
	List *views = list_copy(source->views);
	TimestampTz now = GetCurrentTimestamp();
	bool delivered = source->delivered;
	ListCell *lc;

	source->delivered = false;
	foreach(lc, views)
	{
		KappaServed *served = lfirst(lc);

		if (!served->log_set || served->reload)
			continue;
		if (!served->applier->live)
		{
			if (delivered || (served->rebuild_at != 0 && served->rebuild_at <= now))
				serve_shadow(served, now);
		}
		else if (served->caught_up && !served->announced)
		{
			kappa_shmem_view_caught_up(served->slot);
			served->announced = true;
		}
	}
}

typedef struct FillStep
{
	List *views;          /* of KappaServed */
	List *begun;          /* those that were handed over */
	KappaServed *current; /* whose turn it is; the first one until there is a transaction */
	const int64 *end;
} FillStep;

static void
begin_fills_step(void *arg)
{
	FillStep *step = arg;
	ListCell *lc;

	kappa_worker_begin();
	PushActiveSnapshot(GetTransactionSnapshot());
	foreach(lc, step->views)
	{
		MemoryContext old;

		step->current = lfirst(lc);
		if (!kappa_fill_begin(step->current->applier, step->end))
			continue;
		old = MemoryContextSwitchTo(KappaRoundContext);
		step->begun = lappend(step->begun, step->current);
		MemoryContextSwitchTo(old);
	}
	PopActiveSnapshot();
	CommitTransactionCommand();
}

/* Views that have been told how the log stands, and have not been looked at since. */
static List *
find_new(KappaSource *source)
{
	List *views = NIL;
	ListCell *lc;

	foreach(lc, source->views)
	{
		KappaServed *served = lfirst(lc);

		if (served->log_set && !served->started)
			views = lappend(views, served);
		served->started |= served->log_set;
	}
	return views;
}

/*
 * Hand versions over that others fill faster (fill.h): in one transaction, so
 * that those which are new together are read for together.  That it cannot be
 * done is no reason not to go on here.
 */
static void
hand_over(KappaSource *source)
{
	FillStep step = { .views = find_new(source), .end = source->end };
	ListCell *lc;

	while (step.views != NIL)
	{
		ErrorData *error;

		step.current = linitial(step.views);
		error = kappa_worker_attempt(begin_fills_step, &step);
		if (error == NULL)
			break;
		log_failure(step.current, error, "is not replayed in parallel");
		step.views = list_delete_ptr(step.views, step.current);
		step.begun = NIL;
	}
	foreach(lc, step.begun)
		leave_quietly(lfirst(lc));
}

/* ---- the loop ---- */

/* Returns true if there is more to do at once: a full batch of a limited view has to wait. */
static bool
serve_source(KappaSource *source)
{
	kappa_source_serve(source, GetCurrentTimestamp());
	hand_over(source);
	if (source->views == NIL)
		return true;
	if (kappa_source_has_batch(source, GetCurrentTimestamp()))
		kappa_deliver(source);
	serve_views(source);
	kappa_waiters_serve(source);
	return source->started && source->readable && kappa_source_has_room(source);
}

/* When something is due; 0: never. */
static TimestampTz
next_moment(TimestampTz idle_since)
{
	TimestampTz next = 0;
	ListCell *lc;

	foreach(lc, kappa_sources)
		next = kappa_earlier(next, kappa_source_next_moment(lfirst(lc)));
	foreach(lc, kappa_worker_views)
	{
		KappaServed *served = lfirst(lc);

		if (served->log_set)
			next = kappa_earlier(next, served->rebuild_at);
	}
	if (idle_since != 0)
		next = kappa_earlier(next, TimestampTzPlusMilliseconds(idle_since, IDLE_EXIT_MS));
	return next;
}

/* Wait for the latch, a socket, or a moment. */
static void
wait_for_work(TimestampTz until)
{
	WaitEvent events[16];
	long timeout = -1;
	int n;

	if (until != 0)
		timeout = Min(TimestampDifferenceMilliseconds(GetCurrentTimestamp(), until),
					  3600 * 1000L);
	n = WaitEventSetWait(kappa_connection_wait_set(), timeout, events,
						 lengthof(events), wait_event);
	for (int i = 0; i < n; i++)
	{
		if (events[i].events & WL_LATCH_SET)
			ResetLatch(MyLatch);
		if (events[i].events & WL_SOCKET_READABLE)
			kappa_source_note_readable(events[i].user_data);
	}
}

static void
serve_interrupts(void)
{
	CHECK_FOR_INTERRUPTS();
	if (kappa_shmem_stopping())
		proc_exit(0);
	if (ConfigReloadPending)
	{
		ConfigReloadPending = false;
		ProcessConfigFile(PGC_SIGHUP);
		kappa_ask_hasten_metadata();
	}
	MemoryContextReset(KappaRoundContext);
	if (kappa_shmem_take_attention())
	{
		update_set();
		kappa_waiters_collect();
	}
	AcceptInvalidationMessages();
	if (connections_changed)
	{
		connections_changed = false;
		deliver_all();
		kappa_source_reread_connections();
	}
	reload_views();
}

/*
 * Returns when statistics that are held back have to be reported; 0: there are
 * none.  They are to be forced then: for the statistics, time stands still
 * between two transactions.
 */
static TimestampTz
report_statistics(void)
{
	static TimestampTz due = 0;
	TimestampTz now = GetCurrentTimestamp();
	long delay = pgstat_report_stat(due != 0 && due <= now);

	if (delay <= 0)
		due = 0;
	else if (due == 0)
		due = TimestampTzPlusMilliseconds(now, delay);
	return due;
}

/* A delivery may have found that a view is to be opened anew. */
static bool
reload_pending(void)
{
	ListCell *lc;

	foreach(lc, kappa_worker_views)
		if (((KappaServed *) lfirst(lc))->reload)
			return true;
	return false;
}

static void
run_loop(void)
{
	TimestampTz idle_since = 0;

	for (;;)
	{
		bool more = false;
		TimestampTz now;
		TimestampTz next;
		List *sources;
		ListCell *lc;

		serve_interrupts();
		now = GetCurrentTimestamp();
		if (kappa_worker_views != NIL)
			idle_since = 0;
		else if (idle_since == 0)
			idle_since = now;
		else if (TimestampDifferenceExceeds(idle_since, now, IDLE_EXIT_MS))
			proc_exit(0);

		sources = list_copy(kappa_sources);
		foreach(lc, sources)
			more |= serve_source(lfirst(lc));
		kappa_ask_check_connections(now);
		kappa_source_sweep();
		more |= connections_changed || reload_pending();
		next = kappa_earlier(next_moment(idle_since), report_statistics());
		wait_for_work(more ? GetCurrentTimestamp() : next);
	}
}

/* ---- the process ---- */

/*
 * Whatever the database or the role has set must not reach the views.  Who
 * holds a lock on one of them must not hold up the others for long; and if
 * that makes a deadlock, it is the worker that gives way, and not a user's
 * command.
 */
void
kappa_worker_pin_settings(void)
{
	static const char *const settings[][2] = {
		{ "search_path", "pg_catalog" },
		{ "jit", "off" },
		{ "synchronous_commit", "off" },
		{ "default_transaction_isolation", "read committed" },
		{ "default_transaction_read_only", "off" },
		{ "default_transaction_deferrable", "off" },
		{ "statement_timeout", "0" },
		{ "deadlock_timeout", "250ms" },
		{ "lock_timeout", "500ms" },
		{ "idle_in_transaction_session_timeout", "0" },
		{ "row_security", "on" },
		{ "session_replication_role", "origin" },
	};

	for (int i = 0; i < lengthof(settings); i++)
		SetConfigOption(settings[i][0], settings[i][1], PGC_SUSET, PGC_S_OVERRIDE);
}

static void
init_worker(void)
{
	KappaProcessId id;

	pqsignal(SIGHUP, SignalHandlerForConfigReload);
	pqsignal(SIGTERM, die);
	BackgroundWorkerUnblockSignals();
	memcpy(&id, MyBgworkerEntry->bgw_extra, sizeof(id));
	if (!kappa_shmem_attach_worker(&id))
		proc_exit(0);
	BackgroundWorkerInitializeConnectionByOid(id.dbid, InvalidOid, 0);
	kappa_worker_pin_settings();
	set_application_name();
	wait_event = WaitEventExtensionNew("KappaWorkerMain");

	KappaWorkerContext = AllocSetContextCreate(TopMemoryContext, "kappa worker",
											   ALLOCSET_DEFAULT_SIZES);
	KappaRoundContext = AllocSetContextCreate(KappaWorkerContext, "kappa worker round",
											  ALLOCSET_DEFAULT_SIZES);
	MemoryContextSwitchTo(KappaRoundContext);
	CacheRegisterSyscacheCallback(FOREIGNSERVEROID, note_connection_change, (Datum) 0);
	CacheRegisterSyscacheCallback(USERMAPPINGOID, note_connection_change, (Datum) 0);
	CacheRegisterSyscacheCallback(FOREIGNDATAWRAPPEROID, note_connection_change, (Datum) 0);
}

void
kappa_worker_main(Datum arg)
{
	init_worker();
	PG_TRY();
	{
		update_set();
		kappa_waiters_collect();
		run_loop();
	}
	PG_CATCH();
	{
		ErrorData *error;

		/* The views that are left behind shall say why. */
		MemoryContextSwitchTo(KappaWorkerContext);
		error = CopyErrorData();
		kappa_shmem_set_exit_reason(error->sqlerrcode, error->message);
		PG_RE_THROW();
	}
	PG_END_TRY();
}
