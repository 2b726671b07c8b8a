/*-------------------------------------------------------------------------
 *
 * connection.c
 *	  A worker's consumers: one for each server and owner of views, and one for
 *	  each view with a limited rate
 *
 * Views of different owners never share a connection: nobody reads with
 * another's credentials.  A connection that cannot be opened leaves nothing
 * behind; once open it stays, through any trouble with the brokers, until its
 * options change or nobody reads through it.
 *
 * IDENTIFICATION
 *	  src/connection.c
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "miscadmin.h"
#include "storage/latch.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

#include "compat.h"
#include "connection.h"
#include "fdw_options.h"
#include "worker.h"

/* Errors that librdkafka heals by itself within this time are not looked into. */
#define GRACE_MS 1000

/* How long the second client of a connection is kept without questions. */
#define ASKER_IDLE_MS 60000

List *kappa_connections = NIL;

/* Made when it is needed; freed when a connection comes or goes. */
static WaitEventSet *wait_set = NULL;

static void
forget_wait_set(void)
{
	if (wait_set != NULL)
		FreeWaitEventSet(wait_set);
	wait_set = NULL;
}

WaitEventSet *
kappa_connection_wait_set(void)
{
	ListCell *lc;

	if (wait_set != NULL)
		return wait_set;
	wait_set = create_session_wait_event_set(2 + list_length(kappa_connections));
	AddWaitEventToSet(wait_set, WL_LATCH_SET, PGINVALID_SOCKET, MyLatch, NULL);
	AddWaitEventToSet(wait_set, WL_EXIT_ON_PM_DEATH, PGINVALID_SOCKET, NULL, NULL);
	foreach(lc, kappa_connections)
	{
		KappaConnection *connection = lfirst(lc);

		AddWaitEventToSet(wait_set, WL_SOCKET_READABLE,
						  kappa_kafka_socket(connection->client), NULL, connection);
	}
	return wait_set;
}

/* ---- options ---- */

/* Read the options of a connection, into CurrentMemoryContext. */
static KafkaConfig *
read_config(Oid serverid, Oid owner)
{
	MemoryContext context = CurrentMemoryContext;
	KafkaConfig *config;

	kappa_worker_begin();
	MemoryContextSwitchTo(context);
	config = kappa_options_get_connection(serverid, owner);
	CommitTransactionCommand();
	MemoryContextSwitchTo(context);
	return config;
}

typedef struct ConfigStep
{
	KappaConnection *connection;
	KafkaConfig *config;
} ConfigStep;

static void
read_config_step(void *arg)
{
	ConfigStep *step = arg;

	step->config = read_config(step->connection->serverid, step->connection->owner);
}

bool
kappa_connection_has_changed(KappaConnection *connection)
{
	ConfigStep step = { .connection = connection };

	return kappa_worker_attempt(read_config_step, &step) != NULL ||
		   !kappa_kafka_same_config(step.config, connection->config);
}

/* ---- opening and closing ---- */

KappaConnection *
kappa_connection_find(Oid serverid, Oid owner, Oid limited)
{
	ListCell *lc;

	foreach(lc, kappa_connections)
	{
		KappaConnection *connection = lfirst(lc);

		if (connection->serverid == serverid && connection->owner == owner &&
			connection->limited == limited)
			return connection;
	}
	return NULL;
}

KappaConnection *
kappa_connection_open(Oid serverid, Oid owner, Oid limited, bool with_headers)
{
	KappaConnection *connection;
	MemoryContext old = CurrentMemoryContext;
	MemoryContext context;

	/* Until it is complete it goes away with the round. */
	context = AllocSetContextCreate(KappaRoundContext, "kappa connection",
									ALLOCSET_SMALL_SIZES);
	MemoryContextSwitchTo(context);
	connection = palloc0(sizeof(KappaConnection));
	connection->context = context;
	connection->serverid = serverid;
	connection->owner = owner;
	connection->limited = limited;
	connection->with_headers = with_headers;
	connection->config = read_config(serverid, owner);
	connection->client = kappa_kafka_open(connection->config, with_headers);
	MemoryContextSwitchTo(KappaWorkerContext);
	kappa_connections = lappend(kappa_connections, connection);
	MemoryContextSetParent(context, KappaWorkerContext);
	forget_wait_set();
	MemoryContextSwitchTo(old);
	return connection;
}

void
kappa_connection_close(KappaConnection *connection)
{
	kappa_connections = list_delete_ptr(kappa_connections, connection);
	forget_wait_set();
	MemoryContextDelete(connection->context);
}

KafkaClient *
kappa_connection_get_asker(KappaConnection *connection)
{
	MemoryContext old;

	connection->asker_used_at = GetCurrentTimestamp();
	if (connection->asker != NULL)
		return connection->asker;
	if (connection->asker_context == NULL)
		connection->asker_context = AllocSetContextCreate(connection->context, "kappa asker",
														  ALLOCSET_SMALL_SIZES);
	old = MemoryContextSwitchTo(connection->asker_context);
	connection->asker = kappa_kafka_open(connection->config, false);
	MemoryContextSwitchTo(old);
	return connection->asker;
}

static void
close_idle_asker(KappaConnection *connection, TimestampTz now)
{
	if (connection->asker == NULL ||
		!TimestampDifferenceExceeds(connection->asker_used_at, now, ASKER_IDLE_MS))
		return;
	MemoryContextDelete(connection->asker_context);
	connection->asker_context = NULL;
	connection->asker = NULL;
}

/* ---- errors of the whole client ---- */

bool
kappa_connection_is_down(KappaConnection *connection)
{
	const char *reason;

	return kappa_kafka_last_error(connection->client, &reason) != 0 ||
		   (connection->asker != NULL &&
			kappa_kafka_last_error(connection->asker, &reason) != 0);
}

bool
kappa_connection_is_suspect(KappaConnection *connection, TimestampTz now)
{
	return connection->down_since != 0 &&
		   TimestampDifferenceExceeds(connection->down_since, now, GRACE_MS);
}

void
kappa_connection_serve(KappaConnection *connection, TimestampTz now)
{
	const char *reason;

	if (kappa_kafka_poll(connection->client, &reason) != 0 &&
		connection->down_since == 0)
		connection->down_since = now;
	if (kappa_kafka_last_error(connection->client, &reason) == 0)
		connection->down_since = 0;
	close_idle_asker(connection, now);
}

TimestampTz
kappa_connection_next_moment(KappaConnection *connection)
{
	TimestampTz next = 0;

	if (connection->down_since != 0)
		next = TimestampTzPlusMilliseconds(connection->down_since, GRACE_MS + 1);
	if (connection->asker != NULL)
		next = kappa_earlier(next, TimestampTzPlusMilliseconds(connection->asker_used_at,
															   ASKER_IDLE_MS + 1));
	return next;
}
