/*-------------------------------------------------------------------------
 *
 * inspect.c
 *	  What SQL can see of kappa's processes
 *
 * The functions that read shared memory return what there is, without looking
 * at permissions but for messages of errors: views in schema kappa join them
 * with the catalog.  On a
 * server without kappa in shared_preload_libraries, and on a standby, there is
 * nothing.
 *
 * IDENTIFICATION
 *	  src/inspect.c
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/relation.h"
#include "access/xact.h"
#include "access/xlog.h"
#include "executor/executor.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "storage/latch.h"
#include "storage/lock.h"
#include "storage/proc.h"
#include "tcop/pquery.h"
#include "utils/builtins.h"
#include "utils/fmgrprotos.h"
#include "utils/guc.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/portal.h"
#include "utils/rel.h"
#include "utils/resowner.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

#include "catalog.h"
#include "compat.h"
#include "fdw_options.h"
#include "inspect.h"
#include "kafka_admin.h"
#include "kafka_client.h"
#include "kappa.h"
#include "shmem.h"
#include "view_commands.h"
#include "view_start.h"

/* Between two looks at a position that is replicated to this server. */
#define STANDBY_INTERVAL_MS 20

/* How long a query that cannot be shown for a lock is waited for. */
#define SHOW_LOCK_TIMEOUT_MS 100

#define MAX_TIMEOUT_MS (INT64CONST(10) * 366 * 24 * 3600 * 1000)

PG_FUNCTION_INFO_V1(kappa_sql_for_owner);
PG_FUNCTION_INFO_V1(kappa_sql_run_status);
PG_FUNCTION_INFO_V1(kappa_sql_waiting_reason);
PG_FUNCTION_INFO_V1(kappa_sql_query_text);
PG_FUNCTION_INFO_V1(kappa_sql_log_status);
PG_FUNCTION_INFO_V1(kappa_sql_wait_for);

/* ---- queries ---- */

/* The query of a definition; NULL if it has been dropped by now. */
static text *
get_query_text(Oid definition)
{
	Relation rel = try_relation_open(definition, AccessShareLock);
	text *result = NULL;

	if (rel != NULL && rel->rd_rel->relkind == RELKIND_VIEW)
		result = DatumGetTextPP(DirectFunctionCall2(pg_get_viewdef_ext,
													ObjectIdGetDatum(definition),
													BoolGetDatum(true)));
	if (rel != NULL)
		relation_close(rel, AccessShareLock);
	return result;
}

static void
limit_lock_timeout(int timeout_ms)
{
	if (LockTimeout == 0 || LockTimeout > timeout_ms)
		(void) set_config_option("lock_timeout", psprintf("%d", timeout_ms), PGC_USERSET,
								 PGC_S_SESSION, GUC_ACTION_LOCAL, true, 0, false);
}

/*
 * Who looks at all views at once shall see them, and at once: deparsing a query
 * locks what it reads, and fails if something in it is gone.
 */
Datum
kappa_sql_query_text(PG_FUNCTION_ARGS)
{
	MemoryContext context = CurrentMemoryContext;
	ResourceOwner owner = CurrentResourceOwner;
	text *volatile result = NULL;

	BeginInternalSubTransaction(NULL);
	MemoryContextSwitchTo(context);
	PG_TRY();
	{
		limit_lock_timeout(SHOW_LOCK_TIMEOUT_MS);
		result = get_query_text(PG_GETARG_OID(0));
	}
	PG_CATCH();
	{
		if (geterrcode() == ERRCODE_QUERY_CANCELED || geterrcode() == ERRCODE_OUT_OF_MEMORY)
			PG_RE_THROW();
		FlushErrorState();
	}
	PG_END_TRY();
	RollbackAndReleaseCurrentSubTransaction();
	MemoryContextSwitchTo(context);
	CurrentResourceOwner = owner;
	if (result == NULL)
		PG_RETURN_NULL();
	PG_RETURN_TEXT_P(result);
}

/* ---- states and counters ---- */

/* A view that waits for its turn is behind; one that was put off has failed. */
static const char *
describe_state(const KappaViewStatus *status)
{
	switch (status->state)
	{
		case KAPPA_RUN_CATCHING_UP:
			return "catching up";
		case KAPPA_RUN_RUNNING:
			return "running";
		case KAPPA_RUN_WAITING:
			return status->retry_at == 0 ? "catching up" : "retrying";
		case KAPPA_RUN_RETRYING:
			break;
	}
	return "retrying";
}

/*
 * A message of an error may quote what is in the log, so it is shown to those
 * to whom pg_stat_activity shows the owner's queries.
 */
static Datum
show_message(Oid owner, const char *message)
{
	return CStringGetTextDatum(kappa_view_shows_messages(owner) ? message
																: "<insufficient privilege>");
}

/* kappa.for_owner(owner oid, message text) -> text; the owner may be NULL */
Datum
kappa_sql_for_owner(PG_FUNCTION_ARGS)
{
	Oid owner = PG_ARGISNULL(0) ? InvalidOid : PG_GETARG_OID(0);

	if (PG_ARGISNULL(1))
		PG_RETURN_NULL();
	PG_RETURN_DATUM(show_message(owner, text_to_cstring(PG_GETARG_TEXT_PP(1))));
}

static void
put_status(ReturnSetInfo *rsinfo, const KappaViewStatus *status)
{
	Datum values[18];
	bool nulls[18] = { 0 };
	int i = 0;

	values[i++] = ObjectIdGetDatum(status->view);
	values[i++] = Int32GetDatum(status->version);
	values[i++] = CStringGetTextDatum(describe_state(status));
	nulls[i] = status->reason[0] == '\0';
	values[i++] = show_message(kappa_options_get_owner(status->view), status->reason);
	values[i++] = TimestampTzGetDatum(status->since);
	nulls[i] = status->sqlstate == 0;
	values[i++] = CStringGetTextDatum(unpack_sql_state(status->sqlstate));
	nulls[i] = status->retry_at == 0;
	values[i++] = TimestampTzGetDatum(status->retry_at);
	nulls[i] = status->worker_pid == 0;
	values[i++] = Int32GetDatum(status->worker_pid);
	values[i++] = Int64GetDatum(status->messages);
	values[i++] = Int64GetDatum(status->bytes);
	values[i++] = Int64GetDatum(status->rows);
	values[i++] = Int64GetDatum(status->batches);
	values[i++] = Int64GetDatum(status->restarts);
	values[i++] = Float8GetDatum(status->fetch_us / 1000.0);
	values[i++] = Float8GetDatum(status->apply_us / 1000.0);
	values[i++] = Float8GetDatum(status->commit_us / 1000.0);
	values[i++] = Int64GetDatum(status->letters);
	values[i++] = Int32GetDatum(status->nprocesses);
	Assert(i == lengthof(values));
	tuplestore_putvalues(rsinfo->setResult, rsinfo->setDesc, values, nulls);
}

/*
 * kappa.run_status() -> setof (view oid, version int, state text, reason text,
 * since timestamptz, sqlstate text, retry_at timestamptz, worker_pid int,
 * messages bigint, bytes bigint, rows bigint, batches bigint, restarts bigint,
 * fetch_time float8, apply_time float8, commit_time float8,
 * dead_letters bigint, processes int), times in ms
 */
Datum
kappa_sql_run_status(PG_FUNCTION_ARGS)
{
	KappaViewStatus *statuses;
	int n;

	InitMaterializedSRF(fcinfo, 0);
	n = kappa_shmem_get_views(&statuses);
	for (int i = 0; i < n; i++)
		put_status((ReturnSetInfo *) fcinfo->resultinfo, &statuses[i]);
	return (Datum) 0;
}

/* kappa.waiting_reason() -> text */
Datum
kappa_sql_waiting_reason(PG_FUNCTION_ARGS)
{
	const char *reason = "waiting for the supervisor of this database; if that lasts, max_worker_processes may be too small";

	if (!kappa_shmem_available())
		reason = "kappa is not in shared_preload_libraries";
	else if (!kappa_shmem_has_view_slot())
		reason = "waiting for a slot for views; kappa.max_views is too small";
	PG_RETURN_TEXT_P(cstring_to_text(reason));
}

/*
 * kappa.log_status(view oid, version int) -> setof (part int, end_offset bigint,
 * last_message_at timestamptz)
 */
Datum
kappa_sql_log_status(PG_FUNCTION_ARGS)
{
	KappaLogStatus *status = kappa_shmem_get_log(PG_GETARG_OID(0), PG_GETARG_INT32(1));
	ReturnSetInfo *rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;

	InitMaterializedSRF(fcinfo, 0);
	for (int p = 0; status != NULL && p < status->npartitions; p++)
	{
		Datum values[3];
		bool nulls[3] = { false, status->end_offset[p] < 0, status->last_message_at[p] < 0 };

		values[0] = Int32GetDatum(p);
		values[1] = Int64GetDatum(status->end_offset[p]);
		values[2] = TimestampTzGetDatum(kappa_start_from_kafka(status->last_message_at[p]));
		tuplestore_putvalues(rsinfo->setResult, rsinfo->setDesc, values, nulls);
	}
	return (Datum) 0;
}

/* ---- waiting ---- */

/*
 * Whether the running statement is "SELECT f(constants)" of this very call,
 * and no cursor is open that could hold another snapshot.
 */
static bool
is_only_call(FunctionCallInfo fcinfo)
{
	Portal portal = ActivePortal;
	PlannedStmt *stmt;
	TargetEntry *target;

	if (portal == NULL || portal->queryDesc == NULL || !ActiveSnapshotSet() ||
		GetActiveSnapshot() != portal->queryDesc->snapshot ||
		!ThereAreNoReadyPortals())
		return false;
	stmt = portal->queryDesc->plannedstmt;
	/* Its relationOids say nothing: a constant of type regclass is among them. */
	if (stmt->commandType != CMD_SELECT || stmt->subplans != NIL ||
		!IsA(stmt->planTree, Result) || outerPlan(stmt->planTree) != NULL ||
		list_length(stmt->planTree->targetlist) != 1)
		return false;
	target = linitial_node(TargetEntry, stmt->planTree->targetlist);
	return IsA(target->expr, FuncExpr) &&
		   castNode(FuncExpr, target->expr)->funcid == fcinfo->flinfo->fn_oid;
}

void
kappa_inspect_release_snapshot(FunctionCallInfo fcinfo)
{
	if (!is_only_call(fcinfo))
		return;

	/*
	 * The snapshot stays registered, but is not announced any more: vacuum may
	 * remove rows that it could see.  The next snapshot that is taken or
	 * dropped announces again what is needed then.
	 */
	InvalidateCatalogSnapshot();
	MyProc->xmin = InvalidTransactionId;
}

int64
kappa_inspect_timeout(FunctionCallInfo fcinfo, int argument)
{
	Interval *interval = PG_GETARG_INTERVAL_P(argument);
	double ms = interval->time / 1000.0 +
				(interval->day + interval->month * (double) DAYS_PER_MONTH) * SECS_PER_DAY * 1000.0;

	return (int64) Min(Max(ms, 0), MAX_TIMEOUT_MS);
}

/* Throws unless the relation is a view of kappa that others can see, too. */
static KappaView *
get_view_to_wait_for(Oid relid)
{
	KappaView *view = kappa_catalog_get_view(relid);
	Relation rel;

	if (view == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_WRONG_OBJECT_TYPE),
				 errmsg("\"%s\" is not a view of kappa", get_rel_name(relid))));

	kappa_view_require_readable(view);
	rel = relation_open(relid, AccessShareLock);
	if (rel->rd_createSubid != InvalidSubTransactionId)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("cannot wait for a view that was created in the same transaction")));
	relation_close(rel, AccessShareLock);
	return view;
}

/* The state as kappa.views shows it to the caller; NULL if the view has gone. */
static char *
get_state(const KappaView *view, char **reason)
{
	char *state;

	if (!kappa_catalog_get_status(view->view, &state, reason))
		return NULL;
	if (!kappa_view_shows_messages(view->owner))
		*reason = NULL;
	return state;
}

/* A reason may be an error's message with its detail. */
static const char *
describe(const char *state, const char *reason)
{
	return reason == NULL ? state : psprintf("%s: %s", state, reason);
}

/* Who waits for a view that waits for a person should know it at once. */
static char *
tell_standstill(const KappaView *view)
{
	char *reason;
	char *state;

	if (view->state == KAPPA_VIEW_RUNNING && !view->restored)
		return NULL;
	state = get_state(view, &reason);
	if (state == NULL)
		return NULL;
	ereport(NOTICE,
			(errmsg("view \"%s\" is %s", get_rel_name(view->view), describe(state, reason)),
			 view->state == KAPPA_VIEW_STOPPED ? 0 : errhint("It goes on after kappa.resume_view().")));
	return state;
}

/* Tell at the timeout what the view does instead, if that is new. */
static void
tell_timeout(const KappaView *view, const char *told)
{
	char *reason;
	char *state = get_state(view, &reason);

	/* What a standby knows of states is no more than "paused". */
	if (state != NULL && told == NULL && RecoveryInProgress())
	{
		ereport(NOTICE,
				(errmsg("what is replicated of view \"%s\" does not have all of its log yet",
						get_rel_name(view->view)),
				 errhint("See kappa.views on the primary server.")));
		return;
	}
	if (state == NULL || (told != NULL && strcmp(state, told) == 0))
		return;
	ereport(NOTICE,
			(errmsg("view \"%s\" has not applied all of its log: it is %s",
					get_rel_name(view->view), describe(state, reason))));
}

/* ---- waiting on a standby ---- */

typedef struct StandbyWait
{
	Oid relid;
	bool alone; /* see is_alone() */
	KappaView *view;
	char *told;
	KappaTable *table;
	KafkaConfig *connection;
	int npartitions;
	int64 *ends; /* of the log */
	bool reached;
} StandbyWait;

/* Whether the transaction has nothing but this call. */
static bool
is_alone(FunctionCallInfo fcinfo)
{
	return is_only_call(fcinfo) && !IsTransactionBlock() && !IsSubTransaction() &&
		   (MyXactFlags & XACT_FLAGS_PIPELINING) == 0;
}

/* Run a part of the work, and keep no lock of it if the call is alone. */
static void
run_part(StandbyWait *wait, void (*part)(StandbyWait *wait))
{
	MemoryContext context = CurrentMemoryContext;
	ResourceOwner owner = CurrentResourceOwner;

	if (!wait->alone)
	{
		part(wait);
		return;
	}

	BeginInternalSubTransaction(NULL);
	MemoryContextSwitchTo(context);
	PG_TRY();
	{
		part(wait);
	}
	PG_FINALLY();
	{
		RollbackAndReleaseCurrentSubTransaction();
		MemoryContextSwitchTo(context);
		CurrentResourceOwner = owner;
	}
	PG_END_TRY();
}

static void
begin_wait(StandbyWait *wait)
{
	KappaView *view = get_view_to_wait_for(wait->relid);
	KappaVersion *version = kappa_catalog_get_version(view->view, view->version);

	if (version == NULL || !OidIsValid(version->source))
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("definition of view \"%s\" was dropped", get_rel_name(view->view))));
	wait->view = view;
	wait->told = tell_standstill(view);
	wait->table = kappa_options_get_table(version->source);
	kappa_options_check_reader(wait->table, view->owner);
	wait->connection = kappa_options_get_connection(wait->table->serverid, view->owner);
}

/* For a server without workers. */
static void
ask_ends(StandbyWait *wait)
{
	KafkaClient *client = kappa_kafka_open(wait->connection, false);
	KafkaTopic *topic = kappa_kafka_topic(client, wait->table->topic);

	wait->npartitions = kappa_kafka_partition_count(topic, NULL);
	wait->ends = palloc(Max(wait->npartitions, 1) * sizeof(int64));
	kappa_kafka_watermarks(topic, wait->npartitions, NULL, wait->ends);
	kappa_kafka_close(client);
}

/* A rebuild may give the view a new version meanwhile. */
static void
look(StandbyWait *wait)
{
	KappaView *view;
	KappaPosition *position = NULL;

	PushActiveSnapshot(GetTransactionSnapshot());
	view = kappa_catalog_get_view(wait->relid);
	if (view != NULL)
		position = kappa_catalog_get_position(wait->relid, view->version);
	PopActiveSnapshot();
	wait->reached = true;
	for (int p = 0; p < wait->npartitions && wait->reached; p++)
	{
		bool known = position != NULL && p < position->npartitions;

		wait->reached = (known ? position->next_offset[p] : 0) >= wait->ends[p];
	}
}

/*
 * Sleep without being in the way of WAL that removes rows.
 *
 * Such WAL, replayed while a snapshot is announced, waits not for the end of
 * the snapshot but for that of its transaction, and the WAL behind it is what
 * this transaction waits for.  A snapshot of a moment is enough, even the one
 * that the statement has begun with.  So a transaction that has no snapshot
 * any more, and no lock either, looks like one that has ended, while it
 * sleeps: replay finds no lock on its virtual transaction ID.
 */
static void
sleep_on_standby(FunctionCallInfo fcinfo, bool alone)
{
	VirtualTransactionId vxid;

	kappa_inspect_release_snapshot(fcinfo);
	GET_VXID_FROM_PGPROC(vxid, *MyProc);
	if (alone)
		VirtualXactLockTableCleanup();
	(void) WaitLatch(MyLatch, WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH,
					 STANDBY_INTERVAL_MS, WaitEventExtensionNew("KappaWaitFor"));
	if (alone)
		VirtualXactLockTableInsert(vxid);
	ResetLatch(MyLatch);
	CHECK_FOR_INTERRUPTS();
}

/*
 * On a standby the position comes with the WAL, and nobody can be asked to
 * tell: so look for it now and then.
 */
static bool
wait_on_standby(FunctionCallInfo fcinfo, Oid relid, int64 timeout_ms)
{
	TimestampTz deadline = TimestampTzPlusMilliseconds(GetCurrentTimestamp(), timeout_ms);
	MemoryContext scratch = AllocSetContextCreate(CurrentMemoryContext, "kappa wait",
												  ALLOCSET_SMALL_SIZES);
	StandbyWait wait = { .relid = relid, .alone = is_alone(fcinfo) };

	run_part(&wait, begin_wait);
	kappa_inspect_release_snapshot(fcinfo);
	ask_ends(&wait);
	for (;;)
	{
		MemoryContext old = MemoryContextSwitchTo(scratch);

		run_part(&wait, look);
		MemoryContextSwitchTo(old);
		MemoryContextReset(scratch);
		if (wait.reached || GetCurrentTimestamp() >= deadline)
			break;
		sleep_on_standby(fcinfo, wait.alone);
	}
	MemoryContextDelete(scratch);
	if (!wait.reached)
		tell_timeout(wait.view, wait.told);
	return wait.reached;
}

/* kappa.wait_for(view regclass, timeout interval) -> boolean */
Datum
kappa_sql_wait_for(PG_FUNCTION_ARGS)
{
	Oid relid = PG_GETARG_OID(0);
	int64 timeout_ms = kappa_inspect_timeout(fcinfo, 1);
	KappaView *view;
	char *told;
	bool reached;

	/* Its snapshot would not show what was applied meanwhile. */
	if (IsolationUsesXactSnapshot())
		ereport(ERROR,
				(errcode(ERRCODE_ACTIVE_SQL_TRANSACTION),
				 errmsg("kappa.wait_for() cannot be used in a transaction with isolation level %s",
						XactIsoLevel == XACT_SERIALIZABLE ? "SERIALIZABLE" : "REPEATABLE READ"),
				 errhint("Use isolation level READ COMMITTED.")));

	if (RecoveryInProgress())
		PG_RETURN_BOOL(wait_on_standby(fcinfo, relid, timeout_ms));
	view = get_view_to_wait_for(relid);
	kappa_view_require_preload();
	told = tell_standstill(view);
	kappa_inspect_release_snapshot(fcinfo);
	reached = kappa_shmem_wait_applied(relid, timeout_ms);
	if (!reached)
		tell_timeout(view, told);
	PG_RETURN_BOOL(reached);
}
