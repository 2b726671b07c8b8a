/*-------------------------------------------------------------------------
 *
 * kappa.c
 *	  Entry point: configuration parameters, hooks, launcher
 *
 * No librdkafka handle is made here: under shared_preload_libraries this runs
 * in the postmaster, and threads do not survive a fork.
 *
 * IDENTIFICATION
 *	  src/kappa.c
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "fmgr.h"
#include "miscadmin.h"
#include "utils/guc.h"

#include "guard.h"
#include "kappa.h"
#include "launcher.h"
#include "shmem.h"
#include "view_callees.h"

PG_MODULE_MAGIC;

int kappa_max_workers;
int kappa_rebuild_workers;
int kappa_replay_min;
int kappa_replay_rate;
int kappa_max_views;
int kappa_batch_rows;
int kappa_batch_bytes;
int kappa_batch_interval;
int kappa_fetch_buffer;
int kappa_connect_timeout;
int kappa_metadata_interval;
int kappa_retry_max_delay;
int kappa_keep_previous;
int kappa_dead_letter_limit;
int kappa_dead_letter_percent;
int kappa_dead_letter_max_bytes;

extern PGDLLEXPORT void _PG_init(void);

/* The size of shared memory, which only the postmaster may define. */
static void
define_shared_settings(void)
{
	DefineCustomIntVariable("kappa.max_views",
							"Sets the maximum number of running views and rebuilds of the server.",
							NULL,
							&kappa_max_views, 1000, 10, 100000,
							PGC_POSTMASTER, 0, NULL, NULL, NULL);
}

static void
define_process_settings(void)
{
	DefineCustomIntVariable("kappa.max_workers",
							"Sets the maximum number of workers per database.",
							"One of them is kept for views that are behind, if there are at least two.",
							&kappa_max_workers, 4, 1, 256,
							PGC_SIGHUP, 0, NULL, NULL, NULL);
	DefineCustomIntVariable("kappa.retry_max_delay",
							"Sets the longest time to wait before a failing view is tried again.",
							"The delay starts at one second and doubles.",
							&kappa_retry_max_delay, 300000, 100, INT_MAX,
							PGC_SIGHUP, GUC_UNIT_MS, NULL, NULL, NULL);
}

static void
define_replay_settings(void)
{
	DefineCustomIntVariable("kappa.rebuild_workers",
							"Sets the maximum number of processes per database that replay logs.",
							"They come on top of kappa.max_workers.",
							&kappa_rebuild_workers, 2, 1, 64,
							PGC_SIGHUP, 0, NULL, NULL, NULL);
	DefineCustomIntVariable("kappa.replay_min_messages",
							"Sets the number of messages from which on a view is filled in parallel.",
							"-1 turns that off.",
							&kappa_replay_min, 200000, -1, INT_MAX,
							PGC_SIGHUP, 0, NULL, NULL, NULL);
	DefineCustomIntVariable("kappa.replay_rate",
							"Sets the largest number of messages that one process replays in a second.",
							"0 means no limit.",
							&kappa_replay_rate, 0, 0, INT_MAX,
							PGC_SIGHUP, 0, NULL, NULL, NULL);
}

static void
define_rebuild_settings(void)
{
	DefineCustomIntVariable("kappa.keep_previous",
							"Sets how long the version before a rebuild is kept live, for kappa.rollback_view().",
							"0 does not keep it, -1 keeps it until the next rebuild.  The session that begins the rebuild decides.",
							&kappa_keep_previous, 3600, -1, INT_MAX,
							PGC_USERSET, GUC_UNIT_S, NULL, NULL, NULL);
}

static void
define_batch_settings(void)
{
	DefineCustomIntVariable("kappa.batch_rows",
							"Sets the largest number of messages applied in one transaction.",
							NULL,
							&kappa_batch_rows, 50000, 1, 10000000,
							PGC_SIGHUP, 0, NULL, NULL, NULL);
	DefineCustomIntVariable("kappa.batch_bytes",
							"Sets the size of messages after which a batch is applied.",
							"A single message may be larger.",
							&kappa_batch_bytes, 16384, 1, 1024 * 1024,
							PGC_SIGHUP, GUC_UNIT_KB, NULL, NULL, NULL);
	DefineCustomIntVariable("kappa.batch_interval",
							"Sets the shortest time between two batches under load.",
							"An idle view applies a message as soon as it arrives.",
							&kappa_batch_interval, 5, 0, 60000,
							PGC_SIGHUP, GUC_UNIT_MS, NULL, NULL, NULL);
}

static void
define_letter_settings(void)
{
	DefineCustomIntVariable("kappa.dead_letter_limit",
							"Sets the largest number of dead letters of a view that may wait.",
							"The view is stopped at the next one.  -1 means no limit.",
							&kappa_dead_letter_limit, 1000, -1, INT_MAX,
							PGC_SIGHUP, 0, NULL, NULL, NULL);
	DefineCustomIntVariable("kappa.dead_letter_percent",
							"Sets the largest part of the last messages that may become dead letters.",
							"The view is stopped at the next one.  100 means no limit.",
							&kappa_dead_letter_percent, 50, 0, 100,
							PGC_SIGHUP, 0, NULL, NULL, NULL);
	DefineCustomIntVariable("kappa.dead_letter_max_bytes",
							"Sets the size of a message from which on a dead letter has only its beginning.",
							"The rest is read from the log again when it is needed.",
							&kappa_dead_letter_max_bytes, 1024, 0, 1024 * 1024,
							PGC_SIGHUP, GUC_UNIT_KB, NULL, NULL, NULL);
}

static void
define_kafka_settings(void)
{
	DefineCustomIntVariable("kappa.fetch_buffer",
							"Sets the size of messages that one consumer fetches ahead.",
							NULL,
							&kappa_fetch_buffer, 16384, 1024, 1024 * 1024,
							PGC_SIGHUP, GUC_UNIT_KB, NULL, NULL, NULL);
	DefineCustomIntVariable("kappa.connect_timeout",
							"Sets the time to wait for an answer of the Kafka brokers.",
							NULL,
							&kappa_connect_timeout, 10000, 100, INT_MAX,
							PGC_USERSET, GUC_UNIT_MS, NULL, NULL, NULL);
	DefineCustomIntVariable("kappa.metadata_interval",
							"Sets the time between two looks for new partitions.",
							NULL,
							&kappa_metadata_interval, 30000, 100, INT_MAX,
							PGC_SIGHUP, GUC_UNIT_MS, NULL, NULL, NULL);
}

void
_PG_init(void)
{
	define_process_settings();
	define_replay_settings();
	define_rebuild_settings();
	define_batch_settings();
	define_letter_settings();
	define_kafka_settings();
	if (process_shared_preload_libraries_in_progress)
		define_shared_settings();
	MarkGUCPrefixReserved("kappa");

	/* Without preload only foreign tables work; create_view says so. */
	if (!process_shared_preload_libraries_in_progress)
		return;

	kappa_shmem_init();
	kappa_guard_init();
	kappa_callees_init();
	kappa_launcher_register();
}
