/*-------------------------------------------------------------------------
 *
 * definition.h
 *	  The SQL view behind a version, and the settings it was made under
 *
 * IDENTIFICATION
 *	  src/definition.h
 *
 *-------------------------------------------------------------------------
 */
#ifndef KAPPA_DEFINITION_H
#define KAPPA_DEFINITION_H

#include "catalog.h"
#include "view_plan.h"

/*
 * Parse and analyse the text of a view's query as the current user.  Exactly
 * one SELECT.  Errors point into the text.
 */
extern Query *kappa_definition_parse(const char *text);

/*
 * Create the SQL view for a version from its query's text (names are looked
 * up under the search_path in force), owned by the current user, and move it
 * into schema kappa_state.  near is the schema in which the current user may
 * create; base and version make the name.
 */
extern Oid kappa_definition_create(const char *text, Oid near, const char *base, int32 version);

/*
 * Create a table as the current user with statements made by view_plan.c for
 * the given name in schema near, and move it into kappa_state.
 */
extern Oid kappa_definition_create_state_table(List *(*ddl)(const KappaShape *, const char *),
											   const KappaShape *shape,
											   Oid near, const char *base, const char *suffix);

/*
 * Wait until others who make a relation of this name, in whatever schema, have
 * ended, and keep new ones waiting until the end of the transaction.  suffix
 * may be NULL.
 */
extern void kappa_definition_lock_name(const char *base, const char *suffix);

/* The name of a relation, qualified and quoted; throws if the relation is gone. */
extern char *kappa_definition_relation_name(Oid relid);

/* Run statements (C strings) as the current user under the search_path in force. */
extern void kappa_definition_run_ddl(List *statements);

/* Make an object (a relation) go away with the view's table; again is no harm. */
extern void kappa_definition_depend(Oid dependent, Oid view);

/* ANALYZE a table, as kappa; TRUNCATE a version's. */
extern void kappa_definition_analyze_table(Oid relid);
extern void kappa_definition_truncate(Oid relid);

/* Drop a relation that belongs to kappa, whoever is allowed to; again is no harm. */
extern void kappa_definition_drop_relation(Oid relid, DropBehavior behavior);

/* Give all that belongs to a view to the owner of its table. */
extern void kappa_definition_follow_owner(Oid view);

/* The query of a definition: a copy of its rule tree, made flat (view_flatten.h). */
extern Query *kappa_definition_get_query(Oid definition);

/*
 * A hash of what a definition means, and the OIDs of the SQL views that it
 * reads its topic through; NULL and NIL if there are none.  Names of the topic
 * and of columns do not matter: PostgreSQL follows those.
 */
extern char *kappa_definition_hash_sources(Oid definition, List **views);

/*
 * Throw if the query that statements are made from, which is not the one that
 * the user wrote, is not one when it is written down and parsed again.
 */
extern void kappa_definition_check_text(Oid definition);

/* Does a hash say that the definition means the same as when it was taken?  Either may be NULL. */
extern bool kappa_definition_same_sources(const char *before, const char *now);

/*
 * Start a GUC nest level in which expressions are deparsed so that the text
 * means the same under any settings but search_path; end it with AtEOXact_GUC().
 */
extern int kappa_definition_enter_deparse(const char *search_path);

/* The same for what is hashed: the text must not depend on who asks. */
extern int kappa_definition_enter_hash(void);

/* The text of a definition, deparsed under an empty search_path. */
extern char *kappa_definition_get_text(Oid definition, bool pretty);

/*
 * The statements of a version, deparsed so that they mean the same under its
 * settings.  pretty: for people to read, with few brackets.
 */
extern KappaStatements *kappa_definition_get_statements(Query *definition,
														const KappaShape *shape,
														const KappaVersion *version,
														bool pretty);

/* Likewise any query that was made from a version's definition. */
extern char *kappa_definition_deparse(Query *query, const KappaVersion *version);

/* Likewise what a replay runs: over a stretch of the log, and over its staging table. */
extern char *kappa_definition_get_stretch(Query *definition, const KappaShape *shape,
										  const KappaVersion *version, bool in_memory);
extern KappaFillStatements *kappa_definition_get_fill(Query *definition,
													  const KappaShape *shape,
													  const KappaVersion *version,
													  Oid staging);

/*
 * The statement that makes the rows which are there before any message, for
 * this session to run; NULL if there are none.
 */
extern char *kappa_definition_get_birth(Query *definition, const KappaShape *shape,
										const KappaVersion *version);

/* Likewise the query over the bounded log: what the view's rows must equal. */
extern char *kappa_definition_get_bounded_query(Query *definition, const KappaShape *shape,
												const KappaVersion *version);

/* The settings of this session that a version's meaning depends on: a text[] of name=value. */
extern Datum kappa_definition_pin_settings(void);

/*
 * Act as the owner of a view, in a security-restricted operation, under its
 * settings.  Undone by leave, or by the abort of the transaction.
 */
typedef struct KappaOwnerScope
{
	Oid userid;
	int sec_context;
	int guc_level;
} KappaOwnerScope;

extern void kappa_definition_enter_owner(KappaOwnerScope *scope, Oid owner, List *settings);
extern void kappa_definition_leave_owner(KappaOwnerScope *scope);

/* In such a scope: tables made until its end go where a table is. */
extern void kappa_definition_use_tablespace_of(Oid relid);

/*
 * Run a SELECT as the owner of a view, likewise.  It calls nothing but what the
 * definition calls (see view_callees.h).  SPI must be connected.  The rows go
 * to the result of a set-returning function, which is emptied first; with
 * rsinfo NULL to SPI_tuptable.  Returns their number.
 */
struct ReturnSetInfo;
extern uint64 kappa_definition_select_as_owner(Oid owner, List *settings, Query *definition,
											   const char *sql, struct ReturnSetInfo *rsinfo);

#endif /* KAPPA_DEFINITION_H */
