/*-------------------------------------------------------------------------
 *
 * fdw_estimate.c
 *	  How long logs are, for the planner
 *
 * A connection for each plan would cost more than many a query.  So the
 * numbers are kept for some seconds, and scans add what they learn.
 *
 * IDENTIFICATION
 *	  src/fdw_estimate.c
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "fdw_estimate.h"
#include "fdw_reader.h"
#include "kappa.h"
#include "utils/hsearch.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

/* How long a number is good enough, in ms. */
#define MAX_AGE 10000

/* Longest wait for brokers while planning, in ms; the scan will be patient. */
#define PLAN_TIMEOUT 500

#define TOPIC_SIZE 250

typedef struct LogKey
{
	Oid serverid;
	Oid userid;
	char topic[TOPIC_SIZE];
} LogKey;

typedef struct LogEntry
{
	LogKey key;
	TimestampTz learnt_at;
	KappaLog log; /* npartitions is 0 if the brokers did not answer */
} LogEntry;

/* In CacheMemoryContext, with the arrays of its entries. */
static HTAB *known_logs = NULL;

static LogEntry *
find_entry(const KappaTable *table, Oid userid)
{
	LogKey key;
	LogEntry *entry;
	bool found;

	if (known_logs == NULL)
	{
		HASHCTL ctl;

		ctl.keysize = sizeof(LogKey);
		ctl.entrysize = sizeof(LogEntry);
		ctl.hcxt = CacheMemoryContext;
		known_logs = hash_create("kappa known logs", 16, &ctl,
								 HASH_ELEM | HASH_BLOBS | HASH_CONTEXT);
	}

	memset(&key, 0, sizeof(key));
	key.serverid = table->serverid;
	key.userid = userid;
	strlcpy(key.topic, table->topic, TOPIC_SIZE);
	entry = hash_search(known_logs, &key, HASH_ENTER, &found);
	if (!found)
	{
		entry->learnt_at = 0;
		memset(&entry->log, 0, sizeof(entry->log));
	}
	return entry;
}

static void
set_entry(LogEntry *entry, const KappaLog *log)
{
	int32 n = log == NULL ? 0 : log->npartitions;

	entry->learnt_at = GetCurrentTimestamp();
	if (n > entry->log.npartitions)
	{
		int64 *offsets = MemoryContextAlloc(CacheMemoryContext,
											2 * n * sizeof(int64));

		if (entry->log.begin != NULL)
			pfree(entry->log.begin);
		entry->log.begin = offsets;
		entry->log.end = offsets + n;
	}
	entry->log.npartitions = n;
	for (int32 i = 0; i < n; i++)
	{
		entry->log.begin[i] = log->begin[i];
		entry->log.end[i] = log->end[i];
	}
}

/* Errors that are not about reaching the topic, but about this session. */
static bool
is_ours(int sqlstate)
{
	int category = ERRCODE_TO_CATEGORY(sqlstate);

	return category == ERRCODE_TO_CATEGORY(ERRCODE_QUERY_CANCELED) ||
		   category == ERRCODE_TO_CATEGORY(ERRCODE_OUT_OF_MEMORY) ||
		   category == ERRCODE_TO_CATEGORY(ERRCODE_INTERNAL_ERROR);
}

/*
 * Ask the brokers, in a context of its own.  An error must not fail the plan:
 * EXPLAIN works without brokers, and the scan will say better what is wrong.
 * No subtransaction is needed to carry on: inside, no catalog is read, and a
 * reader holds nothing but what its memory context gives back.
 */
static KappaLog *
ask_brokers(const KappaTable *table, Oid userid)
{
	MemoryContext caller = CurrentMemoryContext;
	MemoryContext context = AllocSetContextCreate(caller, "kappa estimate",
												  ALLOCSET_SMALL_SIZES);
	KafkaConfig *config = kappa_options_get_connection(table->serverid, userid);
	int timeout = kappa_connect_timeout;
	KappaLog *volatile log = NULL;

	kappa_connect_timeout = Min(timeout, PLAN_TIMEOUT);
	PG_TRY();
	{
		KappaReader *reader;

		MemoryContextSwitchTo(context);
		reader = kappa_reader_open(table, config, false);
		MemoryContextSwitchTo(caller);
		log = kappa_reader_get_log(reader);
	}
	PG_CATCH();
	{
		MemoryContextSwitchTo(caller);
		kappa_connect_timeout = timeout;
		if (is_ours(geterrcode()))
			PG_RE_THROW();
		FlushErrorState();
	}
	PG_END_TRY();

	kappa_connect_timeout = timeout;
	MemoryContextDelete(context);
	return log;
}

const KappaLog *
kappa_estimate_log(const KappaTable *table, Oid userid)
{
	LogEntry *entry = find_entry(table, userid);

	if (TimestampDifferenceExceeds(entry->learnt_at, GetCurrentTimestamp(),
								   MAX_AGE))
	{
		KappaLog *log = ask_brokers(table, userid);

		set_entry(entry, log);
	}
	return entry->log.npartitions > 0 ? &entry->log : NULL;
}

void
kappa_estimate_remember(const KappaTable *table, Oid userid,
						const KappaLog *log)
{
	set_entry(find_entry(table, userid), log);
}
