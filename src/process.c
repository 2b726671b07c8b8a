/*-------------------------------------------------------------------------
 *
 * process.c
 *	  Start the processes of a database, and notice those that never came
 *
 * IDENTIFICATION
 *	  src/process.c
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "miscadmin.h"
#include "postmaster/bgworker.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

#include "fill.h"
#include "process.h"

/* A worker without a process that anybody knows of never attaches. */
#define ATTACH_TIMEOUT_MS 60000

/* A process that was started from here. */
typedef struct StartedProcess
{
	KappaProcessId id;
	Oid view; /* that it replays for; InvalidOid for a worker */
	int32 version;
	BackgroundWorkerHandle *handle;
} StartedProcess;

static List *started = NIL; /* of StartedProcess */

/* ---- starting ---- */

/* Start a process, and remember it; false, and its slot is free again, if that cannot be. */
static bool
start(BackgroundWorker *worker, const StartedProcess *process)
{
	MemoryContext old = MemoryContextSwitchTo(TopMemoryContext);
	BackgroundWorkerHandle *handle;
	bool registered;

	worker->bgw_flags = BGWORKER_SHMEM_ACCESS | BGWORKER_BACKEND_DATABASE_CONNECTION;
	worker->bgw_start_time = BgWorkerStart_RecoveryFinished;
	worker->bgw_restart_time = BGW_NEVER_RESTART;
	worker->bgw_notify_pid = MyProcPid;
	strlcpy(worker->bgw_library_name, "kappa", BGW_MAXLEN);
	registered = RegisterDynamicBackgroundWorker(worker, &handle);
	if (registered)
	{
		StartedProcess *entry = palloc(sizeof(StartedProcess));

		*entry = *process;
		entry->handle = handle;
		started = lappend(started, entry);
	}
	else
		kappa_shmem_worker_free(&process->id);
	MemoryContextSwitchTo(old);
	return registered;
}

bool
kappa_process_start_worker(const char *topic, bool catchup, KappaProcessId *id)
{
	BackgroundWorker worker = {
		.bgw_type = "kappa worker",
		.bgw_function_name = "kappa_worker_main",
	};
	StartedProcess process = { .view = InvalidOid };

	if (!kappa_shmem_worker_reserve(catchup, id))
		return false;
	process.id = *id;
	snprintf(worker.bgw_name, BGW_MAXLEN, "kappa worker: topic %s", topic);
	memcpy(worker.bgw_extra, id, sizeof(*id));
	return start(&worker, &process);
}

bool
kappa_process_start_filler(const char *topic, Oid view, int32 version)
{
	BackgroundWorker worker = {
		.bgw_type = "kappa replay",
		.bgw_function_name = "kappa_filler_main",
	};
	KappaFillerArgument argument = { .view = view, .version = version };
	StartedProcess process = { .view = view, .version = version };

	if (!kappa_shmem_filler_reserve(view, version, &argument.id))
		return false;
	process.id = argument.id;
	snprintf(worker.bgw_name, BGW_MAXLEN, "kappa replay: topic %s", topic);
	memcpy(worker.bgw_extra, &argument, sizeof(argument));
	return start(&worker, &process);
}

/* ---- what became of them ---- */

int
kappa_process_count_fillers(Oid view, int32 version)
{
	ListCell *lc;
	int n = 0;

	foreach(lc, started)
	{
		StartedProcess *entry = lfirst(lc);

		n += entry->view == view && entry->version == version;
	}
	return n;
}

static StartedProcess *
find_process(const KappaProcessId *id)
{
	ListCell *lc;

	foreach(lc, started)
	{
		StartedProcess *entry = lfirst(lc);

		if (entry->id.slot == id->slot && entry->id.generation == id->generation)
			return entry;
	}
	return NULL;
}

static bool
has_stopped(const StartedProcess *process)
{
	pid_t pid;

	return GetBackgroundWorkerPid(process->handle, &pid) == BGWH_STOPPED;
}

bool
kappa_process_collect(void)
{
	KappaWorkerStatus *statuses;
	ListCell *lc;
	bool failed = false;
	TimestampTz now = GetCurrentTimestamp();
	int n = kappa_shmem_get_workers(&statuses);

	for (int i = 0; i < n; i++)
	{
		StartedProcess *mine;

		if (statuses[i].pid != 0)
			continue;
		mine = find_process(&statuses[i].id);
		if (mine != NULL
				? !has_stopped(mine)
				: !TimestampDifferenceExceeds(statuses[i].started_at, now, ATTACH_TIMEOUT_MS))
			continue;
		kappa_shmem_worker_free(&statuses[i].id);
		failed = true;
	}

	foreach(lc, started)
	{
		StartedProcess *entry = lfirst(lc);

		if (!has_stopped(entry))
			continue;
		started = foreach_delete_current(started, lc);
		pfree(entry->handle);
		pfree(entry);
	}
	return failed;
}
