/*-------------------------------------------------------------------------
 *
 * fdw_changelog.h
 *	  The latest message of each key
 *
 * IDENTIFICATION
 *	  src/fdw_changelog.h
 *
 *-------------------------------------------------------------------------
 */
#ifndef KAPPA_FDW_CHANGELOG_H
#define KAPPA_FDW_CHANGELOG_H

#include "decode.h"
#include "fdw_reader.h"
#include "nodes/execnodes.h"

typedef struct KappaChangelog KappaChangelog;

/*
 * Prepare to find the latest messages of a changelog.  The decoder must have
 * the key columns.  key_clauses are conditions of the form "key column =
 * constant"; messages that do not satisfy them are passed over at once.
 * tombstones: keys whose latest message is one are wanted, too.  Lives in CurrentMemoryContext.
 */
extern KappaChangelog *kappa_changelog_create(const KappaTable *table,
											  KappaDecoder *decoder,
											  List *key_clauses, ScanState *node,
											  bool rewind, bool tombstones);

/* Read everything from a reader that was started. */
extern void kappa_changelog_load(KappaChangelog *changelog, KappaReader *reader);

/* Whether it holds rows that can be returned again, and returning them again. */
extern bool kappa_changelog_can_rewind(const KappaChangelog *changelog);
extern void kappa_changelog_rewind(KappaChangelog *changelog);

/* Forget what was loaded, temporary files too. */
extern void kappa_changelog_clear(KappaChangelog *changelog);

/*
 * The next key's latest message, or NULL.  Keys whose latest message is a
 * tombstone are left out, unless they are wanted.  The message is valid until
 * the next call.
 */
extern const KappaMessage *kappa_changelog_next(KappaChangelog *changelog);

#endif /* KAPPA_FDW_CHANGELOG_H */
