/*-------------------------------------------------------------------------
 *
 * launcher.c
 *	  The process that keeps a supervisor in each database that uses kappa
 *
 * Whether a database uses kappa can only be seen from inside.  The launcher
 * therefore starts a supervisor in each database that it does not know, one
 * after the other; one that finds no extension exits at once, and the database
 * is left alone until something is committed there that concerns kappa (which
 * CREATE EXTENSION does).  Databases that are new are found by a look into
 * pg_database now and then: a copy of one that uses kappa tells nobody.
 *
 * The launcher itself is connected to no database and reads pg_database only.
 *
 * IDENTIFICATION
 *	  src/launcher.c
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/heapam.h"
#include "access/htup_details.h"
#include "access/tableam.h"
#include "access/xact.h"
#include "catalog/pg_database.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "postmaster/bgworker.h"
#include "postmaster/interrupt.h"
#include "storage/ipc.h"
#include "storage/latch.h"
#include "tcop/tcopprot.h"
#include "utils/guc.h"
#include "utils/hsearch.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

#include "compat.h"
#include "kappa.h"
#include "launcher.h"
#include "shmem.h"
#include "supervisor.h"

/* Between two looks for new databases. */
#define DATABASES_INTERVAL_MS 60000

/* Before a supervisor that failed is started again. */
#define RESTART_DELAY_MS 5000

/* Before another try when there was no slot for a background worker. */
#define SLOT_DELAY_MS 1000

/* A supervisor that has not come by then never will. */
#define ATTACH_TIMEOUT_MS 60000

/* What the launcher knows about a database; in a hash table by OID. */
typedef struct KnownDatabase
{
	Oid dbid;
	bool seen;           /* in the present look at pg_database */
	bool settled;        /* kappa is not here: nothing to start */
	TimestampTz next_at; /* not to be started earlier; 0: at once */
} KnownDatabase;

static HTAB *known;
static MemoryContext LauncherContext;
static bool slot_missing = false; /* said so in the log */

void
kappa_launcher_register(void)
{
	BackgroundWorker worker = {
		.bgw_name = "kappa launcher",
		.bgw_type = "kappa launcher",
		.bgw_flags = BGWORKER_SHMEM_ACCESS | BGWORKER_BACKEND_DATABASE_CONNECTION,
		.bgw_start_time = BgWorkerStart_RecoveryFinished,
		.bgw_restart_time = 10,
		.bgw_library_name = "kappa",
		.bgw_function_name = "kappa_launcher_main",
	};

	/* Nothing may run in the half-made database of an upgrade. */
	if (!IsBinaryUpgrade)
		RegisterBackgroundWorker(&worker);
}

void
kappa_launcher_sleep(TimestampTz until, uint32 wait_event)
{
	int events = WL_LATCH_SET | WL_EXIT_ON_PM_DEATH;
	long timeout = -1;

	if (until != 0)
	{
		events |= WL_TIMEOUT;
		timeout = TimestampDifferenceMilliseconds(GetCurrentTimestamp(), until);
		timeout = Min(timeout, 3600 * 1000L);
	}
	(void) WaitLatch(MyLatch, events, timeout, wait_event);
	ResetLatch(MyLatch);
	CHECK_FOR_INTERRUPTS();
	if (ConfigReloadPending)
	{
		ConfigReloadPending = false;
		ProcessConfigFile(PGC_SIGHUP);
	}
}

/* ---- what databases there are ---- */

static void
note_database(Form_pg_database database)
{
	KnownDatabase *entry;
	bool found;

	/*
	 * A template is there to be copied, which a connection to it would
	 * prevent.
	 */
	if (!database->datallowconn || database->datistemplate)
		return;

	entry = hash_search(known, &database->oid, HASH_ENTER, &found);
	if (!found)
	{
		entry->settled = false;
		entry->next_at = 0;
	}
	entry->seen = true;
}

/* Bring the hash table up to date with pg_database. */
static void
look_for_databases(void)
{
	HASH_SEQ_STATUS status;
	KnownDatabase *entry;
	Relation rel;
	TableScanDesc scan;
	HeapTuple tuple;

	hash_seq_init(&status, known);
	while ((entry = hash_seq_search(&status)) != NULL)
		entry->seen = false;

	SetCurrentStatementStartTimestamp();
	StartTransactionCommand();
	(void) GetTransactionSnapshot();
	rel = table_open(DatabaseRelationId, AccessShareLock);
	scan = table_beginscan_catalog(rel, 0, NULL);
	while ((tuple = heap_getnext(scan, ForwardScanDirection)) != NULL)
		note_database((Form_pg_database) GETSTRUCT(tuple));
	table_endscan(scan);
	table_close(rel, AccessShareLock);
	CommitTransactionCommand();
	MemoryContextSwitchTo(LauncherContext);

	hash_seq_init(&status, known);
	while ((entry = hash_seq_search(&status)) != NULL)
		if (!entry->seen)
			hash_search(known, &entry->dbid, HASH_REMOVE, NULL);
}

/* ---- supervisors ---- */

static bool
start_supervisor(Oid dbid)
{
	BackgroundWorker worker = {
		.bgw_name = "kappa supervisor",
		.bgw_type = "kappa supervisor",
		.bgw_flags = BGWORKER_SHMEM_ACCESS | BGWORKER_BACKEND_DATABASE_CONNECTION,
		.bgw_start_time = BgWorkerStart_RecoveryFinished,
		.bgw_restart_time = BGW_NEVER_RESTART,
		.bgw_library_name = "kappa",
		.bgw_function_name = "kappa_supervisor_main",
		.bgw_notify_pid = MyProcPid,
	};
	KappaProcessId id;

	StaticAssertStmt(sizeof(KappaProcessId) <= BGW_EXTRALEN,
					 "process id must fit into bgw_extra");
	if (!kappa_shmem_database_reserve(dbid, &id))
		return false;
	memcpy(worker.bgw_extra, &id, sizeof(id));
	if (RegisterDynamicBackgroundWorker(&worker, NULL))
		return true;
	kappa_shmem_database_free(&id);
	return false;
}

/*
 * Free the slots of supervisors that have gone, and note how they ended.  One
 * that found no extension may have looked just before it came.
 */
static void
collect_supervisor(const KappaDatabaseStatus *status)
{
	KnownDatabase *entry = hash_search(known, &status->id.dbid, HASH_FIND, NULL);

	if (entry != NULL)
	{
		bool absent = status->state == KAPPA_DATABASE_ABSENT;

		entry->settled = absent && !status->reload;
		entry->next_at = 0;
		if (!absent)
			entry->next_at = TimestampTzPlusMilliseconds(status->started_at, RESTART_DELAY_MS);
	}
	kappa_shmem_database_free(&status->id);
}

/*
 * True if one of them is still on its way: then no other is started, so that
 * a server with many databases does not fork for all of them at once.
 */
static bool
collect_supervisors(TimestampTz now)
{
	KappaDatabaseStatus *statuses;
	bool starting = false;
	int n = kappa_shmem_get_databases(&statuses);

	for (int i = 0; i < n; i++)
	{
		KappaDatabaseStatus *status = &statuses[i];
		bool late = status->pid == 0 &&
					TimestampDifferenceExceeds(status->started_at, now, ATTACH_TIMEOUT_MS);

		if (status->state == KAPPA_DATABASE_STARTING && !late)
			starting = true;
		else if (status->state != KAPPA_DATABASE_SERVING && status->pid == 0)
			collect_supervisor(status);
	}
	pfree(statuses);
	return starting;
}

static bool
has_supervisor(Oid dbid)
{
	KappaDatabaseStatus *statuses;
	bool result = false;
	int n = kappa_shmem_get_databases(&statuses);

	for (int i = 0; i < n; i++)
		result |= statuses[i].id.dbid == dbid;
	pfree(statuses);
	return result;
}

static void
report_missing_slot(bool missing)
{
	if (missing && !slot_missing)
		ereport(WARNING,
				(errcode(ERRCODE_CONFIGURATION_LIMIT_EXCEEDED),
				 errmsg("out of background worker slots"),
				 errdetail("A supervisor of kappa cannot be started."),
				 errhint("You might need to increase max_worker_processes.")));
	slot_missing = missing;
}

/*
 * Start the first supervisor that is due.  Returns when to look again: 0 if
 * nothing but the latch can bring news.
 */
static TimestampTz
start_next(TimestampTz now)
{
	HASH_SEQ_STATUS status;
	KnownDatabase *entry;
	TimestampTz next = 0;

	hash_seq_init(&status, known);
	while ((entry = hash_seq_search(&status)) != NULL)
	{
		TimestampTz due = entry->next_at;

		if (entry->settled || has_supervisor(entry->dbid))
			continue;
		(void) kappa_shmem_is_evicted(entry->dbid, &due);
		if (due <= now)
		{
			bool started = start_supervisor(entry->dbid);

			hash_seq_term(&status);
			report_missing_slot(!started);
			return started ? 0 : TimestampTzPlusMilliseconds(now, SLOT_DELAY_MS);
		}
		if (next == 0 || due < next)
			next = due;
	}
	return next;
}

/* Something was committed there: look into these databases again. */
static bool
take_woken(void)
{
	Oid dbids[64];
	bool all;
	int n = kappa_shmem_take_woken(dbids, lengthof(dbids), &all);
	HASH_SEQ_STATUS status;
	KnownDatabase *entry;

	if (n == 0 && !all)
		return false;
	look_for_databases();
	hash_seq_init(&status, known);
	while ((entry = hash_seq_search(&status)) != NULL)
	{
		bool woken = all;

		for (int i = 0; i < n; i++)
			woken |= dbids[i] == entry->dbid;
		if (!woken)
			continue;
		entry->settled = false;
		entry->next_at = 0;
	}
	return true;
}

static TimestampTz
earlier(TimestampTz a, TimestampTz b)
{
	if (a == 0 || b == 0)
		return Max(a, b);
	return Min(a, b);
}

static void
init_launcher(void)
{
	HASHCTL ctl = {
		.keysize = sizeof(Oid),
		.entrysize = sizeof(KnownDatabase),
	};

	pqsignal(SIGHUP, SignalHandlerForConfigReload);
	pqsignal(SIGTERM, die);
	BackgroundWorkerUnblockSignals();
	BackgroundWorkerInitializeConnection(NULL, NULL, 0);
	SetConfigOption("application_name", "kappa launcher", PGC_USERSET, PGC_S_SESSION);

	LauncherContext = AllocSetContextCreate(TopMemoryContext, "kappa launcher",
											ALLOCSET_DEFAULT_SIZES);
	MemoryContextSwitchTo(LauncherContext);
	ctl.hcxt = LauncherContext;
	known = hash_create("kappa databases", 64, &ctl,
						HASH_ELEM | HASH_BLOBS | HASH_CONTEXT);
	kappa_shmem_attach_launcher();
}

void
kappa_launcher_main(Datum arg)
{
	uint32 wait_event;
	TimestampTz look_at = 0;

	init_launcher();
	wait_event = WaitEventExtensionNew("KappaLauncherMain");
	for (;;)
	{
		TimestampTz now = GetCurrentTimestamp();
		TimestampTz next = 0;

		if (look_at <= now)
		{
			look_for_databases();
			look_at = TimestampTzPlusMilliseconds(now, DATABASES_INTERVAL_MS);
		}

		/* First the ends, then the wakes: a wake may concern what ended. */
		if (!collect_supervisors(now))
		{
			(void) take_woken();
			next = start_next(now);
		}
		kappa_launcher_sleep(earlier(next, look_at), wait_event);
	}
}
