/*-------------------------------------------------------------------------
 *
 * catalog.h
 *	  Typed access to kappa's own tables
 *
 * Functions that write need a transaction; they run as the owner of the
 * extension with a fixed search_path, whoever calls them, so callers check
 * permissions first.  Results are palloc'd in CurrentMemoryContext.
 *
 * IDENTIFICATION
 *	  src/catalog.h
 *
 *-------------------------------------------------------------------------
 */
#ifndef KAPPA_CATALOG_H
#define KAPPA_CATALOG_H

#include "datatype/timestamp.h"
#include "nodes/pg_list.h"
#include "utils/snapshot.h"

/* What a view is meant to do; kappa.view.state. */
typedef enum KappaViewState
{
	KAPPA_VIEW_RUNNING,
	KAPPA_VIEW_PAUSED,
	KAPPA_VIEW_STOPPED,
} KappaViewState;

/* A row of kappa.view. */
typedef struct KappaView
{
	Oid view;
	char *kind; /* "append", "latest", "aggregate" */
	int32 version;
	KappaViewState state;
	char *reason;  /* NULL while running */
	bool restored; /* ran last in another cluster or database */
	Oid owner;     /* of the table */
} KappaView;

/* A row of kappa.view_version. */
typedef struct KappaVersion
{
	Oid view;
	int32 version;
	Oid definition;         /* the SQL view in kappa_state; InvalidOid if it was dropped */
	Oid source;             /* the foreign table */
	Oid target;             /* the table written to: the view, or a rebuild's shadow */
	Oid companion;          /* InvalidOid if the version needs none */
	List *key;              /* of C strings: the columns that tell rows apart; NIL if none do */
	char *fingerprint;      /* kappa_options_fingerprint when it was made */
	List *settings;         /* of KappaSetting */
	char *source_views;     /* kappa_definition_hash_sources when it was made, or NULL */
	List *functions;        /* of C strings: hashes of KappaCallee when it was made */
	bool live;              /* the view's present version */
	TimestampTz kept_until; /* of a previous version that is kept live; 0 of others */
	int32 message_rate;     /* of the view, in a second; 0: no limit */
} KappaVersion;

/* Limits of a view's own, in place of configuration parameters. */
typedef struct KappaLimits
{
	bool has_dead_letter_limit;
	bool has_dead_letter_percent;
	int32 dead_letter_limit;
	int32 dead_letter_percent;
	int32 message_rate; /* 0: none */
} KappaLimits;

/* A configuration parameter that a version's meaning depends on. */
typedef struct KappaSetting
{
	char *name;
	char *value;
} KappaSetting;

/* A row of kappa.position. */
typedef struct KappaPosition
{
	char *topic;
	int npartitions;
	int64 *start_offset; /* -1: from the beginning, not resolved yet */
	int64 *next_offset;  /* likewise */
} KappaPosition;

/* NULL if the relation is not a view of kappa. */
extern KappaView *kappa_catalog_get_view(Oid view);

/*
 * Columns state and reason of kappa.views, the reason NULL if there is none;
 * false if the relation is not a view of kappa.
 */
extern bool kappa_catalog_get_status(Oid view, char **state, char **reason);

/*
 * The same, and nobody else changes its row until the end of the transaction.
 * Throws 40001 under a snapshot that is older than the last change.
 */
extern KappaView *kappa_catalog_lock_view(Oid view);
extern KappaVersion *kappa_catalog_get_version(Oid view, int32 version);

/* A text[] of a list of C strings. */
extern Datum kappa_catalog_make_names(const List *names);

/*
 * The number of a view's live version as committed, which the transaction's
 * snapshot may be too old to see; 0 if there is no such view.
 */
extern int32 kappa_catalog_get_latest_number(Oid view);

/* All versions of a view, of KappaVersion. */
extern List *kappa_catalog_list_versions(Oid view);

/* All versions that should run now: of running views and their rebuilds; of KappaVersion. */
extern List *kappa_catalog_list_runnable(void);

extern KappaPosition *kappa_catalog_get_position(Oid view, int32 version);

/*
 * Offsets that kappa.seek_view() passed over, or a dead letter: from_offset up
 * to, not including, to_offset.
 */
typedef struct KappaGap
{
	int32 part;
	int64 from_offset;
	int64 to_offset;
} KappaGap;

/*
 * The position of a version and its gaps (of KappaGap) as a snapshot sees
 * them, for whoever looks at the view's rows through the same snapshot.
 */
extern KappaPosition *kappa_catalog_get_position_at(Oid view, int32 version, Snapshot snapshot);
extern List *kappa_catalog_list_gaps_at(Oid view, int32 version, Snapshot snapshot);

/*
 * Move a version's position from old to new.  Throws 40001 if the stored
 * position is not old any more: another process applied messages, or
 * kappa.seek_view() moved it.
 */
extern void kappa_catalog_store_position(Oid view, int32 version, const char *topic,
										 int npartitions, const int64 *start_offset,
										 const int64 *old_next, int old_npartitions,
										 const int64 *new_next);

/* A row of kappa.last_message: arrays by partition, offset -1 for none. */
typedef struct KappaLastMessage
{
	int npartitions;
	int64 *offset;
	int64 *timestamp;
	int64 *crc; /* CRC-32C of key and value */
} KappaLastMessage;

extern KappaLastMessage *kappa_catalog_get_last_messages(Oid view, int32 version);
extern void kappa_catalog_store_last_messages(Oid view, int32 version, const char *topic,
											  const KappaLastMessage *last);

/* Change the state of a view, with the reason shown in kappa.views, and record an event. */
extern void kappa_catalog_set_state(Oid view, KappaViewState state, const char *reason,
									const char *event);

extern void kappa_catalog_get_limits(Oid view, KappaLimits *limits);
extern void kappa_catalog_set_limits(Oid view, const KappaLimits *limits);

/*
 * Add to kappa.events: created, paused, resumed, failed, recovered, stopped,
 * diverted, retried, discarded, replayed, switched, sought or dropped.
 */
extern void kappa_catalog_add_event(Oid view, const char *event, int32 version,
									const char *sqlstate, const char *detail);

/* True if the extension exists in this database. */
extern bool kappa_catalog_installed(void);

/*
 * Likewise, and keep it from being dropped until the end of the transaction.
 * DROP EXTENSION locks the extension before anything else, so who does the same
 * and DROP EXTENSION never wait for each other.
 */
extern bool kappa_catalog_hold(void);

/* For other modules that run SQL over kappa's tables; SPI is connected between the two. */
typedef struct KappaCatalogScope
{
	Oid userid;
	int sec_context;
	int guc_level;
} KappaCatalogScope;

extern void kappa_catalog_enter(KappaCatalogScope *scope);
extern void kappa_catalog_leave(KappaCatalogScope *scope);

#endif /* KAPPA_CATALOG_H */
