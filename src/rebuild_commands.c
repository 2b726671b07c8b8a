/*-------------------------------------------------------------------------
 *
 * rebuild_commands.c
 *	  SQL functions that begin, end and wait for rebuilds
 *
 * IDENTIFICATION
 *	  src/rebuild_commands.c
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "catalog/pg_class.h"
#include "catalog/pg_type.h"
#include "executor/executor.h"
#include "executor/spi.h"
#include "fmgr.h"
#include "foreign/foreign.h"
#include "miscadmin.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/syscache.h"
#include "utils/timestamp.h"

#include "compat.h"
#include "definition.h"
#include "fault.h"
#include "fdw_options.h"
#include "fill.h"
#include "rebuild_columns.h"
#include "rebuild_commands.h"
#include "rebuild_log.h"
#include "rebuild_previous.h"
#include "rebuild_run.h"
#include "rebuild_switch.h"
#include "shmem.h"
#include "swap.h"
#include "version_history.h"
#include "view_commands.h"
#include "view_flatten.h"

PG_FUNCTION_INFO_V1(kappa_sql_rebuild);
PG_FUNCTION_INFO_V1(kappa_sql_alter_view);
PG_FUNCTION_INFO_V1(kappa_sql_switch_rebuild);
PG_FUNCTION_INFO_V1(kappa_sql_cancel_rebuild);
PG_FUNCTION_INFO_V1(kappa_sql_pause_rebuild);
PG_FUNCTION_INFO_V1(kappa_sql_resume_rebuild);
PG_FUNCTION_INFO_V1(kappa_sql_wait_for_rebuild);

/* How long a waiting backend sleeps at most before it looks by itself. */
#define WAIT_INTERVAL_MS 1000

/* ---- begin ---- */

/* Where the log does not reach back to the view's start, that has to be accepted. */
static void
check_reaches_back(const KappaView *view, const KappaTable *table,
				   const KappaReplayPlan *plan, bool incomplete)
{
	if (plan->missing == NULL)
		return;
	ereport(incomplete ? WARNING : ERROR,
			(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
			 errmsg("topic \"%s\" does not reach back to the beginning of view \"%s\"",
					table->topic, get_rel_name(view->view)),
			 errdetail_internal("%s", plan->missing),
			 incomplete ? 0 : errhint("To build the view from what is left, call this function with incomplete => true.")));
}

/*
 * Refuse where there is a rebuild already; the view's row is locked against
 * another one.  Returns the number of the new version: numbers are not used
 * twice, so that nobody takes one version for another.
 */
static int32
choose_version(const KappaView *view)
{
	KappaRebuildRun *run = kappa_rebuild_run_get(view->view);

	if (run != NULL && !run->finished)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_IN_USE),
				 errmsg("view \"%s\" is being rebuilt already", get_rel_name(view->view)),
				 errhint("Wait with kappa.wait_for_rebuild(), or give it up with kappa.cancel_rebuild().")));
	return kappa_history_get_last(view->view) + 1;
}

static void
check_can_rebuild(const KappaView *view, const KappaVersion *version)
{
	if (view->restored || view->state == KAPPA_VIEW_PAUSED)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("view \"%s\" is paused", get_rel_name(view->view)),
				 errhint("Call kappa.resume_view() first.")));
	kappa_view_require_definition(version);
}

/* The settings of a version as they are stored. */
static Datum
make_settings(const List *settings)
{
	Datum *elements = palloc(Max(list_length(settings), 1) * sizeof(Datum));
	int n = 0;
	ListCell *lc;

	foreach(lc, settings)
	{
		KappaSetting *setting = lfirst(lc);

		elements[n++] = CStringGetTextDatum(psprintf("%s=%s", setting->name, setting->value));
	}
	return PointerGetDatum(construct_array(elements, n, TEXTOID, -1, false, TYPALIGN_INT));
}

/*
 * Analyse the new version's query as the view's owner, who must be able to
 * read what it reads, under the settings that it is going to have.
 */
static KappaShape *
analyze_query(const KappaView *view, const KappaVersion *from, const char *text, List *settings,
			  bool warn)
{
	KappaOwnerScope scope;
	KappaShape *shape;
	Query *query;
	Query *flat;

	kappa_definition_enter_owner(&scope, view->owner, settings);
	query = kappa_definition_parse(text);
	flat = kappa_flatten_query(query, NULL);
	shape = kappa_analyze_query(flat, text, warn);
	ExecCheckQueryPermissions(query);
	ExecCheckQueryPermissions(flat);
	kappa_columns_check(view, from, shape);
	kappa_definition_leave_owner(&scope);
	return shape;
}

/*
 * Old and new version are going to be applied in the same transactions, at the
 * same offsets: both must read one log.
 */
static KappaTable *
require_same_topic(const KappaView *view, const KappaVersion *from, const KappaShape *shape)
{
	KappaTable *before = kappa_options_get_table(from->source);
	KappaTable *table = kappa_options_get_table(shape->scan->source);

	if (before->serverid != table->serverid || strcmp(before->topic, table->topic) != 0)
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("cannot change the topic of view \"%s\"", get_rel_name(view->view)),
				 errdetail("It reads topic \"%s\" of server \"%s\", the new query topic \"%s\" of server \"%s\".",
						   before->topic, GetForeignServer(before->serverid)->servername,
						   table->topic, GetForeignServer(table->serverid)->servername),
				 errhint("Make a second view with kappa.create_view().")));
	return table;
}

/* Make the new version's objects, as the view's owner. */
static KappaVersion *
create_version(const KappaView *view, const char *text, const KappaShape *shape,
			   List *settings, int32 number)
{
	KappaOwnerScope scope;
	KappaVersion *version;
	Oid shadow;

	kappa_definition_enter_owner(&scope, view->owner, settings);
	kappa_definition_use_tablespace_of(view->view);
	shadow = kappa_columns_create_shadow(view, shape, psprintf("v%d_rows", number));
	kappa_definition_depend(shadow, view->view);
	version = kappa_view_create_version(text, shape, view->view, shadow, number);
	kappa_definition_leave_owner(&scope);
	return version;
}

const char *
kappa_rebuild_choose_switch(const KappaView *view, Oid shadow, const char *asked)
{
	char *obstacle = kappa_rebuild_describe_obstacle(view->view, shadow);
	const char *reason = obstacle != NULL ? obstacle : kappa_rebuild_needs_rows(view->view);

	if (strcmp(asked, KAPPA_SWITCH_ROWS) == 0)
		return KAPPA_SWITCH_ROWS;
	if (reason == NULL || (obstacle == NULL && strcmp(asked, KAPPA_SWITCH_STORAGE) == 0))
		return KAPPA_SWITCH_STORAGE;

	ereport(NOTICE,
			(errmsg("view \"%s\" will be switched by rows", get_rel_name(view->view)),
			 errdetail("The reason is that %s.", reason),
			 kappa_columns_differ(view->view, shadow)
				 ? errhint("The view gets or loses columns: while the rows are changed, readers wait.")
				 : 0));
	return KAPPA_SWITCH_ROWS;
}

static void
check_asked(const char *asked)
{
	static const char *const known[] = {
		KAPPA_SWITCH_AUTO, KAPPA_SWITCH_MANUAL, KAPPA_SWITCH_STORAGE, KAPPA_SWITCH_ROWS
	};

	for (int i = 0; i < lengthof(known); i++)
	{
		if (strcmp(asked, known[i]) == 0)
			return;
	}
	ereport(ERROR,
			(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
			 errmsg("unrecognized way to switch: \"%s\"", asked),
			 errhint("Valid values are \"auto\", \"storage\", \"rows\", and \"manual\".")));
}

/* The view's live version, if it can be rebuilt; the view is locked against another rebuild. */
static KappaVersion *
lock_for_rebuild(Oid relid, const char *asked, KappaView **view)
{
	KappaVersion *version;

	*view = kappa_view_require_owned(relid, AccessShareLock);
	kappa_view_require_preload();
	check_asked(asked);
	*view = kappa_catalog_lock_view(relid);
	version = kappa_catalog_get_version(relid, (*view)->version);
	check_can_rebuild(*view, version);
	return version;
}

/* What the caller of rebuild() or alter_view() has asked for. */
typedef struct Request
{
	char *asked; /* how to switch */
	bool incomplete;
	KappaStart *start; /* NULL: where the live version starts */
} Request;

/* Arguments from the given one on. */
static Request
get_request(FunctionCallInfo fcinfo, int first)
{
	Request request = { .incomplete = PG_GETARG_BOOL(first + 1) };

	request.asked = text_to_cstring(PG_GETARG_TEXT_PP(first));
	if (!PG_ARGISNULL(first + 2))
		request.start = kappa_start_parse(text_to_cstring(PG_GETARG_TEXT_PP(first + 2)));
	return request;
}

/* Only the last argument may be null: for the others the functions are strict. */
static bool
lacks_argument(FunctionCallInfo fcinfo)
{
	for (int i = 0; i < PG_NARGS() - 1; i++)
	{
		if (PG_ARGISNULL(i))
			return true;
	}
	return false;
}

/*
 * If the log is long enough, hand the version over to the processes that replay,
 * up to the end that the plan has found.
 */
static void
begin_replay(const KappaView *view, int32 number, const KappaReplayPlan *plan)
{
	KappaApplier *applier = kappa_apply_open(view->view, number);
	int64 *begin;
	int64 *end;
	int n = kappa_replay_get_log(plan, &begin, &end);

	kappa_apply_set_log(applier, n, begin, end);
	(void) kappa_fill_begin(applier, end);
	kappa_apply_close(applier);
}

/*
 * Begin to build the next version of a view.  settings: to be in force while
 * the query is read; NIL if they are.  stored: those to keep, as an array.
 * Returns the number of the version.
 */
static int32
begin_rebuild(const KappaView *view, const KappaVersion *from, const KappaShape *shape,
			  const char *text, List *settings, Datum stored, const Request *request)
{
	int32 number = choose_version(view);
	KappaTable *table = require_same_topic(view, from, shape);
	KappaReplayPlan *plan = kappa_replay_plan(view, table, request->start);
	KappaVersion *version;

	check_reaches_back(view, table, plan, request->incomplete);
	(void) kappa_previous_drop(view->view, "for a rebuild");
	version = create_version(view, text, shape, settings, number);
	kappa_view_insert_version(version, stored, table->topic, kappa_replay_get_starts(plan),
							  plan->nstarts);
	kappa_history_begin(view->view, number, plan->missing, request->start);
	kappa_rebuild_run_insert(view->view, number, request->asked,
							 kappa_rebuild_choose_switch(view, version->target, request->asked),
							 plan->messages);
	begin_replay(view, number, plan);
	kappa_replay_announce(view, plan);
	KAPPA_FAULT(REBUILD_BEGUN, view->view);
	kappa_shmem_wake_at_commit();
	return number;
}

/*
 * kappa.rebuild(view regclass, switch text, incomplete boolean, start text) -> bigint
 *
 * The same query and the same settings, but a new look at the foreign table.
 */
Datum
kappa_sql_rebuild(PG_FUNCTION_ARGS)
{
	Request request;
	KappaView *view;
	KappaVersion *from;
	KappaShape *shape;
	char *query;

	if (lacks_argument(fcinfo))
		PG_RETURN_NULL();
	request = get_request(fcinfo, 1);
	from = lock_for_rebuild(PG_GETARG_OID(0), request.asked, &view);
	query = kappa_definition_get_text(from->definition, false);
	shape = analyze_query(view, from, query, from->settings, false);
	PG_RETURN_INT64(begin_rebuild(view, from, shape, query, from->settings,
								  make_settings(from->settings), &request));
}

/*
 * kappa.alter_view(view regclass, query text, switch text, incomplete boolean,
 * start text) -> bigint
 *
 * Another query, as it reads in this session.
 */
Datum
kappa_sql_alter_view(PG_FUNCTION_ARGS)
{
	Datum settings = kappa_definition_pin_settings();
	Request request;
	KappaView *view;
	KappaVersion *from;
	KappaShape *shape;
	char *query;

	if (lacks_argument(fcinfo))
		PG_RETURN_NULL();
	query = text_to_cstring(PG_GETARG_TEXT_PP(1));
	request = get_request(fcinfo, 2);
	from = lock_for_rebuild(PG_GETARG_OID(0), request.asked, &view);
	shape = analyze_query(view, from, query, NIL, true);
	PG_RETURN_INT64(begin_rebuild(view, from, shape, query, NIL, settings, &request));
}

/* ---- switch and cancel by hand ---- */

static void
report_no_rebuild(Oid view)
{
	ereport(ERROR,
			(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
			 errmsg("view \"%s\" is not being rebuilt", get_rel_name(view))));
}

/* The rebuild of a view that is under way; throws 55000 if there is none. */
static KappaRebuildRun *
require_run(Oid view)
{
	KappaRebuildRun *run = kappa_rebuild_run_get(view);

	if (run == NULL || run->finished)
		report_no_rebuild(view);
	return run;
}

Datum
kappa_sql_switch_rebuild(PG_FUNCTION_ARGS)
{
	KappaView *view = kappa_view_require_owned(PG_GETARG_OID(0), AccessShareLock);
	KappaRebuildRun *run = require_run(view->view);

	if (strcmp(run->asked, KAPPA_SWITCH_MANUAL) == 0 &&
		!kappa_rebuild_run_set_asked(view->view, run->version, KAPPA_SWITCH_AUTO))
		report_no_rebuild(view->view);
	PG_RETURN_VOID();
}

Datum
kappa_sql_cancel_rebuild(PG_FUNCTION_ARGS)
{
	KappaView *view = kappa_view_require_owned(PG_GETARG_OID(0), AccessShareLock);
	KappaRebuildRun *run = require_run(view->view);
	KappaVersion *version = kappa_catalog_get_version(view->view, run->version);

	if (version != NULL && !kappa_rebuild_drop_version(version))
		report_no_rebuild(view->view);
	kappa_rebuild_run_finish(view->view, run->version, KAPPA_PHASE_CANCELLED, NULL);
	PG_RETURN_VOID();
}

/*
 * The version leaves its processes as that of a paused view does: they see the
 * catalog between two transactions.  The lock is for a switch that is about to
 * happen: either it does before, or not until the rebuild is resumed.
 */
static void
set_paused(Oid relid, bool paused)
{
	KappaView *view = kappa_view_require_owned(relid, AccessShareLock);
	KappaRebuildRun *run;

	(void) kappa_catalog_lock_view(view->view);
	run = require_run(view->view);
	if (kappa_rebuild_run_set_paused(view->view, run->version, paused))
		kappa_catalog_add_event(view->view, paused ? "paused" : "resumed", run->version, NULL,
								"the rebuild");
	kappa_shmem_wake_at_commit();
}

Datum
kappa_sql_pause_rebuild(PG_FUNCTION_ARGS)
{
	set_paused(PG_GETARG_OID(0), true);
	PG_RETURN_VOID();
}

Datum
kappa_sql_resume_rebuild(PG_FUNCTION_ARGS)
{
	set_paused(PG_GETARG_OID(0), false);
	PG_RETURN_VOID();
}

/* ---- waiting ---- */

void
kappa_rebuild_waiters_tag(Oid view, LOCKTAG *tag)
{
	/* Advisory locks of users have 1 or 2 in the last field. */
	SET_LOCKTAG_ADVISORY(*tag, MyDatabaseId, view, 0, 3);
}

static int64
interval_to_ms(const Interval *interval)
{
	return ((int64) interval->month * DAYS_PER_MONTH + interval->day) * (USECS_PER_DAY / 1000) +
		   interval->time / 1000;
}

/* True when the rebuild has succeeded, false while it goes on; an error in all other cases. */
static bool
is_done(Oid view, Oid owner)
{
	KappaRebuildRun *run = kappa_rebuild_run_get(view);

	if (run == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("view \"%s\" has not been rebuilt", get_rel_name(view))));
	if (!run->finished && run->uncommitted)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("cannot wait for a rebuild in the transaction that began it")));
	if (!run->finished)
		return false;
	if (strcmp(run->phase, KAPPA_PHASE_DONE) != 0)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("rebuild of view \"%s\" was %s", get_rel_name(view),
						run->error == NULL ? "cancelled" : "given up"),
				 run->error == NULL || !kappa_view_shows_messages(owner)
					 ? 0
					 : errdetail("%s", run->error)));
	return true;
}

static bool
wait_until_done(Oid view, Oid owner, TimestampTz deadline)
{
	bool done = false;

	for (;;)
	{
		int64 left;

		kappa_shmem_change_prepare();
		done = is_done(view, owner);
		left = TimestampDifferenceMilliseconds(GetCurrentTimestamp(), deadline);
		if (done || left <= 0)
			break;
		(void) kappa_shmem_change_sleep(Min(left, WAIT_INTERVAL_MS));
	}
	kappa_shmem_change_cancel();
	return done;
}

/*
 * The caller's own snapshot is one of the old ones that the switch would wait
 * for; the lock tells it not to.  A snapshot that is kept for later would then
 * show the wrong rows: refused.
 */
Datum
kappa_sql_wait_for_rebuild(PG_FUNCTION_ARGS)
{
	Oid relid = PG_GETARG_OID(0);
	TimestampTz deadline = GetCurrentTimestamp() + interval_to_ms(PG_GETARG_INTERVAL_P(1)) * 1000;
	KappaView *view;
	LOCKTAG tag;
	bool done;

	kappa_view_require_preload();
	if (IsolationUsesXactSnapshot())
		ereport(ERROR,
				(errcode(ERRCODE_ACTIVE_SQL_TRANSACTION),
				 errmsg("cannot wait for a rebuild in a transaction that keeps its snapshot"),
				 errhint("Use transaction isolation level READ COMMITTED.")));
	view = kappa_catalog_get_view(relid);
	if (view == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_WRONG_OBJECT_TYPE),
				 errmsg("relation with OID %u is not a view of kappa", relid)));
	kappa_view_require_readable(view);

	kappa_rebuild_waiters_tag(relid, &tag);
	(void) LockAcquire(&tag, ShareLock, false, false);
	done = wait_until_done(relid, view->owner, deadline);
	LockRelease(&tag, ShareLock, false);
	PG_RETURN_BOOL(done);
}
