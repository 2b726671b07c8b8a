/*-------------------------------------------------------------------------
 *
 * rebuild_commands.h
 *	  SQL functions that begin, end and wait for rebuilds
 *
 * IDENTIFICATION
 *	  src/rebuild_commands.h
 *
 *-------------------------------------------------------------------------
 */
#ifndef KAPPA_REBUILD_COMMANDS_H
#define KAPPA_REBUILD_COMMANDS_H

#include "storage/lock.h"

#include "catalog.h"

/*
 * The lock that backends hold in share mode while they are in
 * kappa.wait_for_rebuild() for a view.  Their snapshots must not be waited
 * for, or both would wait for ever.
 */
extern void kappa_rebuild_waiters_tag(Oid view, LOCKTAG *tag);

/*
 * How to switch to a version with the given table: as asked for, or by rows
 * where the exchange of files would be missed by somebody or is not possible,
 * with a NOTICE that says why.
 */
extern const char *kappa_rebuild_choose_switch(const KappaView *view, Oid shadow,
											   const char *asked);

#endif /* KAPPA_REBUILD_COMMANDS_H */
