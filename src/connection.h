/*-------------------------------------------------------------------------
 *
 * connection.h
 *	  A worker's consumers: one for each server and owner of views
 *
 * IDENTIFICATION
 *	  src/connection.h
 *
 *-------------------------------------------------------------------------
 */
#ifndef KAPPA_CONNECTION_H
#define KAPPA_CONNECTION_H

#include "datatype/timestamp.h"
#include "kafka_client.h"
#include "nodes/pg_list.h"
#include "utils/palloc.h"

struct WaitEventSet;

/*
 * A consumer, for one server under the user mapping of one owner.  A view whose
 * messages are limited has one of its own: a consumer reads a partition once.
 */
typedef struct KappaConnection
{
	MemoryContext context; /* deleting it closes the consumer */
	Oid serverid;
	Oid owner;
	Oid limited; /* the view; InvalidOid: for all others */
	bool with_headers;
	KafkaConfig *config;
	KafkaClient *client;
	TimestampTz down_since; /* an error of the whole client; 0: none */

	/*
	 * A second client, for questions while the first one fetches: a broker
	 * answers in turn, and holds the answer to a fetch back until there is a
	 * message.  NULL unless used lately.
	 */
	MemoryContext asker_context;
	KafkaClient *asker;
	TimestampTz asker_used_at;
} KappaConnection;

/* All of this worker, of KappaConnection. */
extern List *kappa_connections;

/* NULL if there is none. */
extern KappaConnection *kappa_connection_find(Oid serverid, Oid owner, Oid limited);

/*
 * Open one that does not exist yet; throws.  Headers cost time for every
 * message, so they are asked for only where they are read.
 */
extern KappaConnection *kappa_connection_open(Oid serverid, Oid owner, Oid limited,
											  bool with_headers);

/* The caller has no topic or message of it any more. */
extern void kappa_connection_close(KappaConnection *connection);

/* The client for questions, opened if need be; throws. */
extern KafkaClient *kappa_connection_get_asker(KappaConnection *connection);

/* Whether the options of server and user mapping are others now, or cannot be read. */
extern bool kappa_connection_has_changed(KappaConnection *connection);

/* Whether either client has an error to tell that brokers have not made up for. */
extern bool kappa_connection_is_down(KappaConnection *connection);

/* Whether the main client has had an error for longer than it takes to heal by itself. */
extern bool kappa_connection_is_suspect(KappaConnection *connection, TimestampTz now);

/* Serve the clients' events: keeps down_since, closes an asker without questions. */
extern void kappa_connection_serve(KappaConnection *connection, TimestampTz now);

/* When that should be done again though nothing happens; 0: never. */
extern TimestampTz kappa_connection_next_moment(KappaConnection *connection);

/*
 * The set to wait with: latch, postmaster, and the sockets of all connections,
 * which are the user data of their events.
 */
extern struct WaitEventSet *kappa_connection_wait_set(void);

#endif /* KAPPA_CONNECTION_H */
