"""
The guards: each rule of the safety argument, and each known hazard, with the tests that hold it.

Where a guard is a line of code, `without` says how it is taken out; tests/e2e/test_guards.py does that in a copy, one after the
other, and sees the test fail. The numbers of the rules are those of docs/safety.md.
"""

from typing import NamedTuple

CLEANING = "tests/integration/test_cleaning.py"
REMOVAL = "tests/integration/test_removal.py"
RESTORE = "tests/integration/test_restore.py"
RECORDED = "tests/integration/test_recorded_nodes.py"
VERDICT = "tests/unit/test_verdict.py"
EVIDENCE = "tests/unit/test_evidence.py"
CLOCK = "tests/unit/test_clock.py"
FLEET = "tests/integration/test_fleet.py"
CRIO = "tests/integration/test_crio.py"
TREES = "tests/integration/test_network_trees.py::test_scan_explains_the_tree_as_expected_and_leaves_it_as_it_is"
JUDGEMENT = "tests/unit/test_judgement.py"
NAMES = "tests/unit/test_names.py"
API = "tests/contract/test_api_witness.py"
RUNTIME = "tests/contract/test_runtime_witness.py"
BAD_INPUT = "tests/e2e/test_bad_input.py"
JOBS = "tests/integration/test_node_jobs.py"
BESIDE = "tests/unit/test_companion.py"
EARLY = "tests/integration/test_companion.py"
TLS = "tests/integration/test_tls.py"
SIDECAR = "tests/unit/test_sidecar.py"


class Out(NamedTuple):
    """A guard taken out: in `file`, `old` (which stands there once) becomes `new`."""

    file: str
    old: str
    new: str


class Guard(NamedTuple):
    """What is guarded, by which tests, and how the guard is taken out to see the first of them fail."""

    what: str
    tests: tuple[str, ...]
    without: Out | None = None


class Hazard(NamedTuple):
    """What can go wrong, and the tests that it does not; or, where none does, how things stand."""

    what: str
    tests: tuple[str, ...] = ()
    how_it_stands: str | None = None


_LISTING = """            listing = self._list(earlier)
            self._step("listed")
"""
_ASKING = "            runtime_file, api_file = self._ask_files()\n"
_EARLY = """            early = type(self)._ask_{0}(self{1})
            setattr(self, "_ask_{0}", lambda {2}: early)
"""
_HOLD = "            state.write_held({*before, (one.path, one.container_id)})\n"
_PUT_BACK = "            result = _restore_one(root, one)\n"

RULES: dict[int, tuple[Guard, ...]] = {
    1: (
        Guard(
            "only files of one link",
            (f"{CLEANING}::test_one_reservation_that_may_not_go_keeps_the_others_of_its_id[hard link]", f"{TREES}[links]"),
            Out("workers/disk.py", " and status.st_nlink == 1", ""),
        ),
        Guard(
            "only files of the directory's owner",
            (f"{TREES}[another-owner]",),
            Out("workers/disk.py", "status.st_uid == directory.st_uid and ", ""),
        ),
        Guard(
            "only files of the directory's file system: no mount is crossed",
            (f"{REMOVAL}::test_a_file_that_another_file_system_shows_under_an_address_is_not_judged",),
            Out("workers/disk.py", " and status.st_dev == directory.st_dev", ""),
        ),
        Guard("at most 512 bytes", (f"{TREES}[empty]",), Out("workers/disk.py", " and len(data) <= limit", "")),
        Guard(
            "only regular files: no link is followed, and each of two checks is enough",
            (f"{TREES}[no-regular-files]", f"{TREES}[links]", f"{TREES}[symlinked-networks]"),
        ),
        Guard(
            "only names that come back unchanged from an IP parser",
            (f"{NAMES}::test_what_the_plugin_never_writes_is_no_address", f"{TREES}[ipv6-spellings]", f"{TREES}[foreign-names]"),
            Out("cni/names.py", "canonical_address(name) == name", "canonical_address(name) is not None"),
        ),
        Guard(
            "only ids of 64 hexadecimal digits",
            (
                "tests/unit/test_reservation.py::test_content_is_read_as_the_plugin_means_it",
                "tests/unit/test_reservation.py::test_any_bytes_are_a_reservation_exactly_when_they_have_the_format",
            ),
            Out("cni/reservation.py", 'rb"([0-9a-f]{64})(?:', 'rb"([0-9a-z-]+)(?:'),
        ),
    ),
    2: (
        Guard(
            "a sandbox in any state is Seen",
            (f"{CLEANING}::test_a_not_ready_sandbox_keeps_its_file_and_the_report_says_so",),
            Out(
                "cni/evidence.py",
                "if container_id in self.sandboxes:",
                "if container_id in self.sandboxes and self.sandboxes[container_id].ready:",
            ),
        ),
        Guard(
            "an empty list of sandboxes is Unknown",
            (f"{CLEANING}::test_a_witness_that_fails_at_the_second_look_ends_the_pass",),
            Out("workers/offline.py", 'unknown=None if sandboxes else f"{path} lists no sandbox at all"', "unknown=None"),
        ),
        Guard(
            "an empty list of the runtimes themselves is Unknown",
            (f"{RUNTIME}::TestAuto::test_one_of_two_may_be_empty_but_not_both",),
            Out("workers/runtime.py", "        if not sandboxes:\n", "        if False:\n"),
        ),
        Guard(
            "one runtime that does not answer is Unknown, whatever the others say",
            (f"{RUNTIME}::TestAuto::test_one_of_two_that_fails_makes_it_unknown_and_what_the_other_sees_is_seen",),
            Out("workers/runtime.py", "        if failures:\n", "        if False:\n"),
        ),
        Guard(
            "a list of pods that is older than the question is Unknown",
            (f"{API}::TestFailures::test_a_list_older_than_asked_for_is_unknown",),
            Out("workers/pods.py", "int(_revision(page)) < int(revision):", "False:"),
        ),
        Guard(
            "a partial list of pods is Unknown",
            (
                f"{API}::TestFailures::test_a_partial_list_without_a_way_to_go_on_is_unknown",
                f"{API}::TestFailures::test_410_in_the_middle_is_unknown_whatever_it_offers",
                f"{API}::TestFailures::test_a_later_page_that_fails_makes_all_unknown",
                f"{API}::TestFailures::test_a_body_that_is_cut_short_is_unknown",
            ),
            Out("workers/pods.py", 'if _metadata(page).get("remainingItemCount"):', "if False:"),
        ),
        Guard(
            "an empty list of pods is Unknown",
            (f"{API}::TestFailures::test_an_empty_list_is_unknown",),
            Out("workers/pods.py", "    if not pods:\n", "    if False:\n"),
        ),
        Guard(
            "a list with pods of another node is Unknown",
            (f"{API}::TestFailures::test_pods_of_another_node_are_unknown",),
            Out("workers/pods.py", "if any(where != node for where, _ in listed):", "if False:"),
        ),
        Guard(
            "every results file of an id is asked, the loopback's too",
            (
                f"{EVIDENCE}::TestNetns::test_the_loopback_results_file_alone_is_enough",
                f"{RECORDED}::test_exactly_the_leaked_files_go",
            ),
            Out("cni/evidence.py", "if any(self.is_alive(path) for path in paths):", "if False:"),
        ),
        Guard(
            "a namespace of a process is Unknown where the runtime that names them so was not asked",
            (
                f"{EVIDENCE}::TestNetns::test_a_path_of_a_process_is_unknown_unless_the_runtime_that_names_them_so_was_asked",
                f"{TREES}[results-of-every-age]",
            ),
            Out("cni/evidence.py", "        if self._nobody_speaks_for(paths):\n", "        if False:\n"),
        ),
        Guard(
            "results files that are elsewhere are not taken for none",
            (f"{TREES}[results-elsewhere]",),
            Out("workers/disk.py", "        link = root.dangling(directory)\n", "        link = None\n"),
        ),
        Guard(
            "a missing directory of namespaces is Unknown",
            (f"{EVIDENCE}::TestNetns::test_a_missing_directory_is_unknown",),
            Out(
                "cni/evidence.py",
                "if any(self.namespaces.directories.get(_split(path)[0]) is None for path in inside):",
                "if False:",
            ),
        ),
        Guard(
            "an ADD under way at both looks is Unknown for files without results",
            (f"{CLEANING}::test_an_add_under_way_at_both_looks_keeps_files_without_results",),
            Out(
                "cni/evidence.py",
                "return Answer.UNKNOWN if unnamed or not self.namespaces.shows_adds else Answer.SILENT",
                "return Answer.SILENT",
            ),
        ),
        Guard(
            "where a running node shows no directory of namespaces at all, an ADD may be under way",
            (f"{CLEANING}::test_a_running_node_that_shows_no_namespaces_keeps_what_has_no_results_files",),
            Out("cni/evidence.py", "if unnamed or not self.namespaces.shows_adds else", "if unnamed else"),
        ),
        Guard(
            "an ADD under way is also looked for in containerd's state directories",
            (f"{CLEANING}::test_a_namespace_in_containerds_state_directory_is_an_add_under_way",),
            Out("workers/netns.py", "(NETNS_DIR, *STATE_DIRS, *sorted(named))", "(NETNS_DIR, *sorted(named))"),
        ),
        Guard(
            "a torn results file is Silent, not Absent",
            (f"{EVIDENCE}::TestNetns::test_one_torn_file_beside_a_good_one_is_silent_and_not_absent",),
            Out(
                "cni/evidence.py",
                "all_told = all(attachment.readable and attachment.namespaces for attachment in attachments)",
                "all_told = True",
            ),
        ),
        Guard(
            "a directory without one namespace of the running pods is not the node's",
            (f"{EVIDENCE}::TestNetns::test_if_no_namespace_of_a_ready_sandbox_exists_the_whole_witness_is_unknown",),
            Out("cni/evidence.py", "namespaces.unknown or self._wrong_mount()", "namespaces.unknown"),
        ),
        Guard(
            "a pod's address, also a secondary one, is Seen",
            (f"{CLEANING}::test_multus_addresses_hold_a_reservation",),
            Out("cni/pods.py", "frozenset({*_status_addresses(status), *secondary})", "frozenset(_status_addresses(status))"),
        ),
        Guard(
            "an address is explained only by a sandbox of that very pod",
            (f"{EVIDENCE}::TestApi::test_an_address_reserved_for_another_pods_sandbox_explains_nothing",),
            Out("cni/evidence.py", "if pod.runtime_uid not in owners.get(address, ()):", "if not owners.get(address):"),
        ),
        Guard(
            "finished pods count while the runtime is off",
            (
                f"{RECORDED}::test_without_the_runtime_exactly_what_both_others_condemn_goes[k-leak-of-finished-pods]",
                f"{EVIDENCE}::TestApi::test_a_finished_pod_counts_only_with_a_ready_sandbox_or_the_runtime_off",
            ),
            Out(
                "cni/evidence.py",
                "(not pod.finished or self.runtime.off or pod.runtime_uid in ready)",
                "(not pod.finished or pod.runtime_uid in ready)",
            ),
        ),
        Guard(
            "a garbled annotation is Unknown while the runtime is off",
            (f"{EVIDENCE}::TestApi::test_a_garbled_annotation_is_unknown_only_while_the_runtime_is_off",),
            Out("cni/evidence.py", "api.unknown or self._garbled_annotation()", "api.unknown"),
        ),
        Guard(
            "names count where later mounts do not show",
            (
                f"{EVIDENCE}::TestMissedMounts::test_names_count_where_later_mounts_do_not_show",
                "tests/unit/test_mountinfo.py::test_only_a_shared_or_slave_mount_shows_what_is_mounted_later",
            ),
            Out("cni/evidence.py", "or not directory.follows_mounts ", ""),
        ),
        Guard(
            "names count where a running sandbox's own namespace is not mounted",
            (f"{EVIDENCE}::TestMissedMounts::test_names_count_where_a_running_sandboxes_own_is_not_mounted",),
            Out("cni/evidence.py", " or self._misses_mounts(path, directory)", ""),
        ),
        Guard(
            "a runtime that speaks only an older CRI is Unknown",
            ("tests/contract/test_older_runtimes.py::test_a_runtime_that_speaks_another_cri_is_unknown[speaks only v1alpha2]",),
            Out("workers/runtime.py", "                self._refuse_older(channel)\n", ""),
        ),
        Guard(
            "a sandbox is ended only where a runtime said so",
            ("tests/contract/test_older_runtimes.py::test_a_sandbox_that_is_listed_and_not_found_has_not_ended",),
            Out(
                "workers/runtime.py",
                "ended = set() if again.unknown is not None else ended - again.sandboxes.keys()",
                "again.unknown",
            ),
        ),
    ),
    3: (
        Guard(
            "one Unknown vetoes",
            (f"{VERDICT}::test_leaked_means_proven_vetoed_by_nobody_old_and_confirmed",),
            Out("cni/verdict.py", "if Answer.UNKNOWN in (facts.runtime, facts.netns, facts.api):", "if False:"),
        ),
        Guard(
            "the API alone never condemns",
            (
                f"{RECORDED}::test_the_api_alone_never_condemns[leak-renamed-network]",
                f"{RECORDED}::test_without_the_runtime_exactly_what_both_others_condemn_goes[a2-failed-add-draining]",
                f"{VERDICT}::test_leaked_means_proven_vetoed_by_nobody_old_and_confirmed",
            ),
            Out(
                "cni/verdict.py",
                "return facts.runtime is Answer.OFF and facts.netns is Answer.ABSENT and facts.api is Answer.ABSENT",
                "return facts.runtime is Answer.OFF and facts.api is Answer.ABSENT",
            ),
        ),
        Guard(
            "the namespaces alone never condemn",
            (
                f"{RECORDED}::test_with_everything_off_nothing_is_leaked[b-dual-stack]",
                f"{VERDICT}::test_leaked_means_proven_vetoed_by_nobody_old_and_confirmed",
            ),
            Out(
                "cni/verdict.py",
                "return facts.runtime is Answer.OFF and facts.netns is Answer.ABSENT and facts.api is Answer.ABSENT",
                "return facts.runtime is Answer.OFF and facts.netns is Answer.ABSENT",
            ),
        ),
    ),
    4: (
        Guard(
            "a young file stays",
            (f"{CLEANING}::test_a_file_younger_than_the_floor_stays", f"{RECORDED}::test_minutes_old_files_are_all_young"),
            Out("cni/verdict.py", "if not facts.old:", "if False:"),
        ),
        Guard(
            "the later of mtime and ctime counts",
            (f"{CLEANING}::test_a_ctime_cannot_be_faked_by_an_old_mtime",),
            Out("cni/listing.py", "return max(times)", "return min(times)"),
        ),
        Guard(
            "after a boot all files are young",
            (f"{CLOCK}::TestOnTheNodeItself::test_after_a_boot_every_file_is_young",),
            Out("cni/cleaning.py", "self.settled = all(look.settled for look in looks)", "self.settled = True"),
        ),
        Guard(
            "after a step of the clock all files are young",
            (f"{CLOCK}::TestOnTheNodeItself::test_after_a_step_every_file_is_young_for_as_long",),
            Out("workers/clock.py", "return stepped_at if unmoved else now", "return stepped_at"),
        ),
        Guard(
            "a step during the pass ends it",
            (f"{CLOCK}::TestOnTheNodeItself::test_a_step_during_the_pass_ends_it",),
            Out("workers/node.py", "abs(offset_seconds(self.clock) - offset) > STEP_SECONDS", "False"),
        ),
    ),
    5: (
        Guard(
            "the same file at both looks",
            (f"{CLEANING}::test_a_file_that_was_written_anew_between_the_looks_stays",),
            Out("cni/cleaning.py", "(self.steady is None or self.steady[index])", "True"),
        ),
        Guard(
            "what either look saw counts",
            (f"{CLEANING}::test_a_sandbox_that_showed_only_at_the_first_look_keeps_its_file",),
            Out(
                "cni/cleaning.py",
                "answer = max(look.runtime.of(container_id) for look in self.looks)",
                "answer = self.last.runtime.of(container_id)",
            ),
        ),
        Guard(
            "all witnesses are asked anew at the second look",
            (f"{CLEANING}::test_a_sandbox_that_shows_only_at_the_second_look_keeps_its_file",),
            Out(
                "cni/cleaning.py",
                "answer = max(look.runtime.of(container_id) for look in self.looks)",
                "answer = self.looks[0].runtime.of(container_id)",
            ),
        ),
        Guard(
            "the files are listed first, then the witnesses are asked",
            (
                f"{REMOVAL}::test_every_witness_is_asked_after_the_files_were_listed[runtime]",
                f"{REMOVAL}::test_every_witness_is_asked_after_the_files_were_listed[api]",
                f"{REMOVAL}::test_every_witness_is_asked_after_the_files_were_listed[netns]",
            ),
            Out("workers/node.py", _LISTING + _ASKING, _ASKING + _LISTING),
        ),
        Guard(
            "so is a runtime",
            (f"{REMOVAL}::test_a_runtime_is_asked_after_the_files_were_listed",),
            Out("workers/node.py", _LISTING, _EARLY.format("runtime", ", Listing()", "_listing") + _LISTING),
        ),
        Guard(
            "so is the API",
            (f"{REMOVAL}::test_the_api_is_asked_after_the_files_were_listed",),
            Out("workers/node.py", _LISTING, _EARLY.format("api", "", "") + _LISTING),
        ),
        Guard(
            "inode, size and times are compared once more at the removal",
            (f"{REMOVAL}::test_a_file_that_changed_after_the_second_look_stays[times]",),
            Out("workers/removal.py", "if stamp_of(os.fstat(fd)) != item.stamp:", "if False:"),
        ),
        Guard(
            "the bytes are compared at the removal",
            (f"{REMOVAL}::test_other_bytes_under_the_same_times_stay[same length]",),
            Out("workers/removal.py", 'return None if os.read(fd, len(expected) + 1) == expected else "changed"', "return None"),
        ),
        Guard(
            "bytes that were added are seen at the removal",
            (f"{REMOVAL}::test_other_bytes_under_the_same_times_stay[one byte more]",),
            Out("workers/removal.py", "os.read(fd, len(expected) + 1)", "os.read(fd, len(expected))"),
        ),
    ),
    6: (
        Guard(
            "all reservations of an id go, or none",
            (f"{CLEANING}::test_one_reservation_that_may_not_go_keeps_the_others_of_its_id[young]",),
            Out(
                "cni/cleaning.py",
                "old=all(self._is_old(index) for index in members),",
                "old=any(self._is_old(index) for index in members),",
            ),
        ),
        Guard(
            "what changed of one reservation at the removal keeps the others of its id",
            (f"{REMOVAL}::test_one_reservation_that_changed_keeps_the_others_of_its_id",),
            Out("workers/removal.py", "            if blocking is not None:\n", "            if False:\n"),
        ),
        Guard(
            "results and scratch files stay where a reservation of their id was not removed",
            (f"{REMOVAL}::test_one_reservation_that_changed_keeps_the_others_of_its_id",),
            Out(
                "workers/removal.py",
                'if all(outcomes.get(index) in ("removed", "gone") for index in leak.reservations):',
                "if True:",
            ),
        ),
        Guard(
            "more reservations of an id than fit under one hold of the lock stay",
            (f"{CLEANING}::test_an_id_with_more_reservations_than_fit_under_one_hold_stays",),
            Out("cni/cleaning.py", "if len(reservations) > MOST_TOGETHER:", "if False:"),
        ),
        Guard(
            "an id with an address in a network that cannot be read stays whole",
            (f"{CLEANING}::test_an_id_that_may_have_an_address_in_a_network_that_cannot_be_read_stays_whole",),
            Out(
                "cni/cleaning.py",
                "return bool(reservations) and not self._networks_of(container_id, members).isdisjoint(self.unread)",
                "return False",
            ),
        ),
        Guard(
            "while a network cannot be read results and scratch files stay",
            (f"{CLEANING}::test_a_network_left_out_that_is_a_link_still_holds_scratch_files",),
            Out("cni/cleaning.py", "return bool(self.unread) or not self", "return not self"),
        ),
        Guard(
            "a CRI-O of 1.32 or later keeps its results and scratch files",
            (f"{CRIO}::test_a_crio_that_tells_its_version_keeps_them_from_1_32_on[1.32]",),
            Out("cni/cleaning.py", 'if item.kind != "reservation" and self.keeps_results:', "if False:"),
        ),
        Guard(
            "so does a CRI-O whose version nobody tells",
            (f"{CRIO}::test_where_nobody_tells_the_version_a_crio_keeps_results_and_scratch_files",),
            Out("workers/node.py", "if not runtime.live and self._has_crio():", "if False:"),
        ),
        Guard(
            "results and scratch only for host-local",
            (f"{CLEANING}::test_results_of_another_ipam_stay",),
            Out("workers/disk.py", "(attachment.uses_host_local or attachment.network == attachments.LOOPBACK)", "True"),
        ),
        Guard(
            "results of networks that this pass does not clean stay",
            (f"{CLEANING}::test_results_of_a_network_that_the_pass_leaves_out_stay",),
            Out("cni/cleaning.py", "elif leftovers and self._may_be_reserved_elsewhere(container_id, members):", "elif False:"),
        ),
        Guard(
            "loopback results only beside files of ours",
            (f"{CLEANING}::test_loopback_results_alone_are_nobodys_of_ours",),
            Out("cni/cleaning.py", "return Subject.SANDBOX if anchored else Subject.FOREIGN", "return Subject.SANDBOX"),
        ),
    ),
    7: (
        Guard(
            "the plugin's own lock is held for every unlink",
            (
                f"{REMOVAL}::test_nothing_is_unlinked_while_another_holds_the_lock",
                f"{REMOVAL}::test_a_lock_that_the_plugin_holds_is_waited_for",
                "tests/e2e/test_race.py::test_a_cleaner_without_this_guard_loses",
            ),
            Out("workers/locking.py", "fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)", "fd"),
        ),
        Guard(
            "a replaced lock excludes nobody",
            (f"{REMOVAL}::test_a_lock_or_directory_that_was_replaced_excludes_nobody[lock]",),
            Out("workers/locking.py", "            _refuse_replaced(fd, network)\n", "            network\n"),
        ),
        Guard(
            "the lock of a directory that was replaced excludes nobody",
            (f"{REMOVAL}::test_a_lock_or_directory_that_was_replaced_excludes_nobody[directory]",),
            Out("workers/locking.py", " or not os.path.samestat(opened, reached)", ""),
        ),
        Guard(
            "the lock is never created",
            (f"{REMOVAL}::test_a_network_without_a_lock_is_skipped_and_the_lock_is_not_created[announced]",),
            Out("workers/locking.py", '"lock", os.O_RDONLY | os.O_NOFOLLOW', '"lock", os.O_CREAT | os.O_RDONLY | os.O_NOFOLLOW'),
        ),
        Guard(
            "while one lock is waited for no other is held",
            (f"{REMOVAL}::test_while_one_lock_is_waited_for_no_other_is_held",),
            Out("workers/locking.py", "            fcntl.flock(fd, fcntl.LOCK_UN)\n", "            fd\n"),
        ),
        Guard(
            "a lock that is no regular file excludes nobody",
            (f"{REMOVAL}::test_a_lock_that_is_no_regular_file_is_an_error",),
            Out("workers/locking.py", "not stat.S_ISREG(lock.st_mode) or ", ""),
        ),
        Guard(
            "the lock is free while the pass waits, asks and writes",
            (f"{REMOVAL}::test_the_lock_is_free_while_the_pass_pauses",),
            Out(
                "workers/removal.py",
                "        self._pause_until = time.monotonic() + random.uniform(*PAUSE_SECONDS)\n        self.observe(",
                "            self._pause_until = time.monotonic() + random.uniform(*PAUSE_SECONDS)\n            self.observe(",
            ),
        ),
        Guard(
            "the lock is held for 3 ms at most",
            (f"{REMOVAL}::test_the_lock_is_given_back_after_3_ms_with_the_rest_still_there",),
            Out("workers/removal.py", "if time.monotonic() > deadline:", "if False:"),
        ),
        Guard(
            "between two holds there is a pause",
            (f"{REMOVAL}::test_between_two_holds_the_lock_is_free_for_a_while",),
            Out("workers/removal.py", "time.sleep(max(0.0, self._pause_until - time.monotonic()))", "pass"),
        ),
        Guard(
            "a Ctrl-Z waits until the lock is released",
            (f"{REMOVAL}::test_a_ctrl_z_waits_until_the_lock_is_released",),
            Out("workers/locking.py", "        stack.enter_context(_not_stopped())\n", ""),
        ),
    ),
    8: (
        Guard(
            "journal before unlink",
            (f"{REMOVAL}::test_what_is_removed_was_on_disk_before", f"{RESTORE}::test_sigkill_at_any_step_loses_nothing"),
            Out("workers/journal.py", '"files": records})\n        self.sync()', '"files": records})'),
        ),
        Guard(
            "the journal's content is synced before the first unlink",
            (f"{REMOVAL}::test_the_journal_is_synced_before_each_unlink",),
            Out("workers/journal.py", "            os.fsync(fd)\n", ""),
        ),
        Guard(
            "so is its name",
            (f"{REMOVAL}::test_the_journal_is_synced_before_each_unlink",),
            Out("workers/journal.py", "        sync_directory(self.directory)\n", ""),
        ),
        Guard(
            "restore never writes over an existing name",
            (f"{RESTORE}::test_an_address_that_was_given_out_again_is_never_overwritten",),
            Out(
                "workers/restoring.py",
                "                os.link(",
                "                name = one.path.rpartition('/')[2]\n"
                "                name in os.listdir(fd) and os.unlink(name, dir_fd=fd)\n"
                "                os.link(",
            ),
        ),
        Guard(
            "restore works under the plugin's lock",
            (f"{RESTORE}::test_a_network_without_a_lock_gets_nothing_back",),
            Out("workers/restoring.py", "with network_locks(locks):", "with network_locks([]):"),
        ),
        Guard(
            "no restore beside a pass",
            (f"{RESTORE}::test_restore_waits_for_no_pass",),
            Out(
                "workers/restoring.py",
                "    with state.pass_lock():\n        without: ",
                "    with contextlib.nullcontext():\n        without: ",
            ),
        ),
        Guard(
            "what was removed below another root is not put below this one",
            (f"{RESTORE}::test_files_of_a_pass_below_another_root_are_not_put_below_this_one",),
            Out("workers/restoring.py", "    if one.root != root.path:\n", "    if False:\n"),
        ),
        Guard(
            "a list of held files that cannot be read stops every removal",
            (
                f"{RESTORE}::test_a_list_of_held_files_that_cannot_be_read_stops_every_removal",
                f"{RESTORE}::test_a_list_of_held_files_of_another_form_is_no_empty_list",
            ),
            Out(
                "workers/state.py",
                "except (CleanupError, TypeError) as error:\n",
                "except (CleanupError, TypeError) as error:\n            return frozenset()\n",
            ),
        ),
        Guard(
            "a restored file is held until it is released",
            (f"{RESTORE}::test_a_restored_file_is_held_until_it_is_released",),
            Out("cni/verdict.py", "if facts.held:", "if False:"),
        ),
        Guard(
            "a restored file is held before it is there",
            (f"{RESTORE}::test_a_file_is_held_before_it_is_there_again",),
            Out(
                "workers/restoring.py",
                _HOLD + _PUT_BACK,
                _PUT_BACK + _HOLD,
            ),
        ),
        Guard(
            "what did not come back is not held",
            (f"{RESTORE}::test_what_did_not_come_back_is_not_held",),
            Out("workers/restoring.py", "            else:\n                state.write_held(before)\n", ""),
        ),
        Guard(
            "the owner comes back",
            (f"{RESTORE}::test_the_owner_comes_back",),
            Out("workers/restoring.py", "        os.fchown(fd, one.uid, one.gid)\n", ""),
        ),
        Guard(
            "an owner that no kernel has is a failure and ends nothing",
            (f"{RESTORE}::test_an_owner_or_time_that_no_kernel_has_fails_and_leaves_nothing",),
            Out("workers/restoring.py", "except OverflowError as error:", "except ZeroDivisionError as error:"),
        ),
        Guard(
            "each root gets its own files back",
            (f"{RESTORE}::test_a_state_directory_that_served_two_roots_gives_each_its_own_files",),
            Out("workers/restoring.py", "for one in here or taken:", "for one in taken:"),
        ),
        Guard(
            "a journal that somebody wrote makes no other file",
            (f"{RESTORE}::test_a_journal_that_somebody_wrote_makes_no_other_file[elsewhere]",),
            Out("workers/restoring.py", "if not _is_ours(one):", "if False:"),
        ),
        Guard(
            "what the plugin freed itself does not come back",
            (f"{RESTORE}::test_what_was_announced_but_kept_does_not_come_back",),
            Out("workers/journal.py", "if one.path in self.restored or one.path in self.kept:", "if one.path in self.restored:"),
        ),
    ),
    9: (
        Guard(
            "the canary",
            (
                f"{RECORDED}::test_another_nodes_sandboxes_condemn_nothing[leak-renamed-network]",
                f"{EVIDENCE}::TestCanary::test_elsewhere_one_reservation_must_be_seen_by_the_runtime",
                f"{EVIDENCE}::TestCanary::test_elsewhere_a_namespace_or_a_pod_does_not_speak_for_the_runtime",
                f"{EVIDENCE}::TestCanary::test_with_the_runtime_off_any_witness_will_do",
            ),
            Out("cni/cleaning.py", "alarm = None if silent else canary(current)", "alarm = None"),
        ),
        Guard(
            "the own pod must be in each list that is on",
            (f"{EVIDENCE}::TestCanary::test_the_own_pod_must_be_in_both_lists",),
            Out("cni/evidence.py", "if pod_uid is not None:", "if False:"),
        ),
        Guard(
            "in a cluster without POD_UID it refuses",
            (f"{EVIDENCE}::TestCanary::test_in_a_cluster_without_the_own_pods_uid_it_refuses",),
            Out("cni/evidence.py", "if in_cluster:", "if False:"),
        ),
        Guard(
            "a network that nobody knows while a pod runs in it is refused",
            (f"{CLEANING}::test_a_network_whose_running_pod_nobody_can_explain_is_refused",),
            Out("cni/cleaning.py", "self.refused.add(network.directory)", "network.directory"),
        ),
    ),
    10: (
        Guard(
            "an empty file whose address a pod shows stays",
            (f"{CLEANING}::test_an_empty_file_whose_address_a_pod_shows_stays",),
            Out("cni/verdict.py", "if facts.api is Answer.SEEN:", "if False:"),
        ),
        Guard(
            "an empty file whose address stands in the results of a listed sandbox stays",
            (f"{CLEANING}::test_an_empty_file_whose_address_stands_in_a_listed_sandboxes_results_stays",),
            Out("cni/evidence.py", "            if has_it:\n", "            if False:\n"),
        ),
        Guard(
            "an empty file whose address stands in the results of a sandbox that nobody speaks for stays",
            (f"{EVIDENCE}::TestEmptyFiles::test_the_results_of_a_process_hold_their_address_unless_its_runtime_was_asked",),
            Out("cni/evidence.py", "if has_it and self._nobody_speaks_for(paths):", "if False:"),
        ),
        Guard(
            "without the API an empty file stays",
            (f"{CLEANING}::test_without_the_api_an_empty_file_stays",),
            Out(
                "cni/verdict.py",
                "facts.runtime is Answer.ABSENT and facts.netns is Answer.ABSENT and facts.api is Answer.ABSENT\n    if",
                "facts.runtime is Answer.ABSENT\n    if",
            ),
        ),
        Guard(
            "PodSandboxStatus of every sandbox must be known",
            (f"{EVIDENCE}::TestEmptyFiles::test_a_sandbox_whose_status_is_not_known_makes_it_unknown",),
            Out(
                "cni/evidence.py",
                "if self.runtime.live and any(id_ not in self.runtime.statuses for id_ in self.runtime.sandboxes):",
                "if False:",
            ),
        ),
    ),
    11: (
        Guard(
            "another engine's files stay",
            (f"{CLEANING}::test_a_reservation_of_another_engine_stays",),
            Out("cni/cleaning.py", "attachment.readable and not attachment.by_cri", "False"),
        ),
        Guard(
            "podman before 4 is another engine",
            (f"{CLEANING}::test_podman_before_4_is_another_engine_though_it_gives_its_own_id",),
            Out("cni/attachment.py", " and not _is_podmans(args)", ""),
        ),
        Guard(
            "a namespace of podman's that no results file names keeps what has none in networks that are not the runtime's",
            (f"{CLEANING}::test_a_podman_container_without_results_is_not_taken_for_a_leak",),
            Out("cni/cleaning.py", "return self.unnamed | self.unnamed_of_others", "return self.unnamed"),
        ),
        Guard(
            "no advice ends the namespace of another engine's container",
            (f"{CLEANING}::test_no_advice_ends_the_namespace_of_another_engines_container",),
            Out("cni/cleaning.py", "        if together is not FOREIGN:\n", "        if True:\n"),
        ),
        Guard(
            "--networks keeps ids whole",
            (f"{CLEANING}::test_an_id_in_a_network_that_the_pass_leaves_out_stays_whole",),
            Out("cni/cleaning.py", "and self.items[index].directory not in self.skipped", ""),
        ),
    ),
    12: (
        Guard(
            "witness files never clean the node itself",
            (
                f"{CLEANING}::test_another_running_node_below_root_is_no_copy",
                f"{BAD_INPUT}::test_wrong_usage_is_one_line_exit_2_and_nothing_is_done[files for a live node]",
            ),
            Out("workers/node.py", "if settings.is_offline and node.root.is_live and not node.policy.dry_run:", "if False:"),
        ),
        Guard(
            "a running node that is mounted elsewhere is no copy",
            (f"{CLEANING}::test_another_running_node_below_root_is_no_copy",),
            Out("workers/paths.py", 'return self.is_host or os.path.exists(f"{self.path}{_BOOT_ID}")', "return self.is_host"),
        ),
        Guard(
            "a tree that is a mount or has some in it is no copy",
            (
                f"{CLEANING}::test_in_a_tree_with_mounts_in_it_the_names_of_namespaces_count",
                "tests/unit/test_mountinfo.py::test_a_tree_with_other_mounts_than_namespaces_below_it_has_mounts",
            ),
            Out("workers/paths.py", "return self.is_live or has_mounts(os.path.realpath(self.path))", "return self.is_live"),
        ),
    ),
    13: (
        Guard(
            "one pass at a time",
            (f"{REMOVAL}::test_a_second_pass_is_busy_and_leaves_the_first_ones_report",),
            Out("workers/state.py", "fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)", "fd"),
        ),
        Guard(
            "a hold stops the next batch",
            (f"{REMOVAL}::test_a_hold_that_appears_stops_before_the_next_batch",),
            Out("workers/removal.py", "if self.is_on_hold():", "if False:"),
        ),
        Guard(
            "a sweep that is stopped stops the next batch",
            (f"{JOBS}::TestTheStopSwitch::test_one_that_comes_in_the_middle_stops_before_the_next_batch",),
            Out("workers/node.py", "        if self.is_stopped():\n", "        if False:\n"),
        ),
        Guard(
            "a pass of the worker's own accord has the guards of every pass",
            (
                f"{EARLY}::TestTheSameGuards::test_exactly_the_leaks_go",
                f"{EARLY}::TestTheSameGuards::test_the_nodes_own_settings_stand",
                f"{EARLY}::TestTheSameGuards::test_a_hold_stops_it",
                f"{EARLY}::TestTheSameGuards::test_beside_another_pass_it_does_nothing",
                f"{EARLY}::TestTheEndOfTheWorker::test_that_of_a_worker_that_was_killed_ends_as_any_pass",
            ),
        ),
        Guard(
            "a pass of the worker's own accord is made at most once in ten minutes",
            (
                f"{BESIDE}::TestEarlyPass::test_it_is_made_at_most_once_in_ten_minutes",
                f"{BESIDE}::TestEarlyPass::test_a_worker_that_is_started_again_and_again_keeps_to_it",
            ),
            Out(
                "workers/companion.py",
                "return last is None or not 0 <= self.clock.monotonic() - last < self.pace.early",
                "return True",
            ),
        ),
        Guard(
            "a worker that is started again and again remembers its own pass",
            (f"{BESIDE}::TestEarlyPass::test_a_worker_that_is_started_again_and_again_keeps_to_it",),
            Out("workers/companion.py", 'return float(last["at"])', "return None"),
        ),
        Guard(
            "a hold that cannot be looked at stops too",
            (f"{REMOVAL}::test_a_hold_that_cannot_be_looked_at_stops_every_removal",),
            Out(
                "workers/state.py",
                "        except OSError:\n            return True\n",
                "        except OSError:\n            return False\n",
            ),
        ),
    ),
    14: (
        Guard(
            "a message asks for less, never for more",
            (
                f"{CLEANING}::test_the_message_can_ask_for_a_dry_run_but_not_against_one",
                f"{FLEET}::test_another_nodes_job_fails_and_does_nothing",
                f"{FLEET}::test_a_message_cannot_overrule_the_nodes_own_dry_run",
                f"{FLEET}::test_a_malformed_message_fails_and_does_nothing",
            ),
            Out("cni/settings.py", "dry_run=self.dry_run or dry_run,", "dry_run=dry_run,"),
        ),
        Guard(
            "who asks for a pass by HTTP has the token",
            (f"{SIDECAR}::TestTheToken::test_without_it_nothing_is_shown_or_done",),
            Out("workers/sidecar.py", "self._unauthorized(environ) if route.guarded else None", "None"),
        ),
        Guard(
            "without a token that is configured nobody asks by HTTP",
            (f"{SIDECAR}::TestTheToken::test_a_file_that_holds_none_lets_nobody_in",),
            Out("workers/tokens.py", 'if not secret or not secret.isprintable() or " " in secret:', "if False:"),
        ),
        Guard(
            "another node's job is not done",
            (f"{FLEET}::test_another_nodes_job_fails_and_does_nothing",),
            Out("tasks/node_tasks.py", "    if asked != own:\n", "    if False:\n"),
        ),
        Guard(
            "a message goes to its node's queue and to no other",
            ("tests/unit/test_routing.py::test_a_queue_of_the_callers_own_choice_is_refused",),
            Out("tasks/routing.py", "if asked not in (None, queue):", "if False:"),
        ),
        Guard(
            "a dry run is asked for by true, and by nothing that looks like it",
            ("tests/unit/test_task_names.py::test_a_flag_is_true_or_false_and_nothing_that_looks_like_it",),
            Out("tasks/names.py", "if isinstance(value, bool):", "if True:"),
        ),
        Guard(
            "a node whose report the ledger has answers with it and cleans nothing twice",
            (f"{JOBS}::TestWhatWasDone::test_the_report_in_the_ledger_is_the_answer_to_a_repeated_message",),
            Out("tasks/node_tasks.py", "if before is not None and _answers(before, sweep_id, dry_run=dry_run):", "if False:"),
        ),
        Guard(
            "a node that has noted its pass itself answers with it and cleans nothing twice",
            (f"{JOBS}::TestWhatWasDone::test_what_the_node_noted_is_the_answer_where_the_ledger_has_none",),
            Out("tasks/node_tasks.py", "if isinstance(last, dict) and _answers(last, sweep_id, dry_run=dry_run):", "if False:"),
        ),
        Guard(
            "a job of a sweep that is stopped is not begun",
            (f"{JOBS}::TestTheStopSwitch::test_a_job_of_a_stopped_sweep_is_not_begun",),
            Out("tasks/node_tasks.py", "    if not ledger.is_stopped(sweep_id):\n", "    if True:\n"),
        ),
        Guard(
            "with TLS the certificate of who sends the messages is checked",
            (f"{TLS}::TestItIsRefused::test_by_celery[another authority]", f"{TLS}::TestItIsRefused::test_by_the_ledger"),
            Out(
                "tasks/broker.py",
                '"ssl_cert_reqs": ssl.CERT_REQUIRED, "ssl_check_hostname": True',
                '"ssl_cert_reqs": ssl.CERT_NONE, "ssl_check_hostname": False',
            ),
        ),
        Guard(
            "and so is its name",
            (f"{TLS}::TestItIsRefused::test_by_celery[another name]", f"{TLS}::TestItIsRefused::test_by_beat"),
            Out("tasks/broker.py", '"ssl_check_hostname": True', '"ssl_check_hostname": False'),
        ),
    ),
}

HAZARDS: dict[int, Hazard] = {
    1: Hazard(
        "live reservation removed by a weak witness",
        (
            f"{RECORDED}::test_exactly_the_leaked_files_go",
            f"{RECORDED}::test_the_api_alone_never_condemns",
            f"{RECORDED}::test_without_the_runtime_exactly_what_both_others_condemn_goes",
        ),
    ),
    2: Hazard(
        "bookkeeping, sub-directories or temporary files removed",
        (
            f"{NAMES}::test_only_the_plugins_own_state_is_bookkeeping",
            f"{NAMES}::test_what_the_plugin_never_writes_is_no_address",
            f"{TREES}[foreign-names]",
            f"{TREES}[no-regular-files]",
            f"{TREES}[names-outside-the-alphabet]",
        ),
    ),
    3: Hazard(
        "the wrong lock",
        (
            f"{REMOVAL}::test_nothing_is_unlinked_while_another_holds_the_lock",
            f"{REMOVAL}::test_a_lock_or_directory_that_was_replaced_excludes_nobody",
            f"{REMOVAL}::test_a_lock_that_is_a_link_is_an_error",
            f"{REMOVAL}::test_a_lock_that_is_no_regular_file_is_an_error",
            f"{REMOVAL}::test_a_network_without_a_lock_is_skipped_and_the_lock_is_not_created",
        ),
    ),
    4: Hazard(
        "the lock held for too long",
        (
            f"{REMOVAL}::test_the_lock_is_given_back_after_3_ms_with_the_rest_still_there",
            f"{REMOVAL}::test_between_two_holds_the_lock_is_free_for_a_while",
            f"{REMOVAL}::test_the_lock_is_free_while_the_pass_pauses",
            f"{REMOVAL}::test_a_ctrl_z_waits_until_the_lock_is_released",
            f"{RESTORE}::test_the_plugins_lock_is_not_held_while_a_file_is_made",
        ),
    ),
    5: Hazard(
        "evidence older than the candidate",
        (
            f"{REMOVAL}::test_every_witness_is_asked_after_the_files_were_listed",
            f"{REMOVAL}::test_a_runtime_is_asked_after_the_files_were_listed",
            f"{REMOVAL}::test_the_api_is_asked_after_the_files_were_listed",
            f"{CLEANING}::test_a_sandbox_that_shows_only_at_the_second_look_keeps_its_file",
            f"{API}::TestTheList::test_it_is_never_older_than_the_question",
        ),
    ),
    6: Hazard(
        "symbolic links and hostile trees",
        (
            f"{TREES}[links]",
            f"{TREES}[loops]",
            f"{TREES}[symlinked-networks]",
            f"{TREES}[another-owner]",
            f"{TREES}[no-regular-files]",
            f"{CLEANING}::test_one_reservation_that_may_not_go_keeps_the_others_of_its_id[hard link]",
            f"{REMOVAL}::test_a_file_that_another_file_system_shows_under_an_address_is_not_judged",
        ),
    ),
    7: Hazard(
        "half-written or empty files",
        (
            f"{CLEANING}::test_an_empty_file_whose_address_a_pod_shows_stays",
            f"{CLEANING}::test_without_the_api_an_empty_file_stays",
            f"{TREES}[torn]",
            f"{TREES}[empty]",
        ),
    ),
    8: Hazard(
        "stale or partial API lists",
        (
            f"{API}::TestTheList::test_it_is_two_requests_so_that_it_is_fresh_and_cheap",
            f"{API}::TestTheList::test_every_page_is_followed_whoever_makes_them",
            f"{API}::TestFailures::test_a_list_older_than_asked_for_is_unknown",
            f"{API}::TestFailures::test_410_in_the_middle_is_unknown_whatever_it_offers",
            f"{API}::TestFailures::test_a_later_page_that_fails_makes_all_unknown",
            f"{API}::TestFailures::test_a_body_that_is_cut_short_is_unknown",
            f"{API}::TestFailures::test_a_partial_list_without_a_way_to_go_on_is_unknown",
            f"{API}::TestFailures::test_an_empty_list_is_unknown",
        ),
    ),
    9: Hazard(
        "a runtime's failure read as no sandboxes",
        (
            f"{RUNTIME}::TestOneSocket::test_an_error_is_unknown_and_named",
            f"{RUNTIME}::TestOneSocket::test_a_runtime_that_hangs_is_unknown_when_its_time_is_over",
            f"{RUNTIME}::TestOneSocket::test_a_list_above_the_limit_is_unknown",
            f"{RUNTIME}::TestAuto::test_one_of_two_that_fails_makes_it_unknown_and_what_the_other_sees_is_seen",
            f"{RUNTIME}::TestAuto::test_a_dead_socket_beside_a_runtime_makes_it_unknown",
            f"{RUNTIME}::TestAuto::test_one_of_two_may_be_empty_but_not_both",
            f"{CLEANING}::test_a_witness_that_fails_at_the_second_look_ends_the_pass",
        ),
    ),
    10: Hazard(
        "a wrong node name",
        (
            f"{EVIDENCE}::TestCanary::test_the_own_pod_must_be_in_both_lists",
            f"{API}::TestFailures::test_pods_of_another_node_are_unknown",
            f"{API}::TestFailures::test_an_empty_list_is_unknown",
        ),
    ),
    11: Hazard(
        "other users of the directory",
        (
            f"{CLEANING}::test_a_reservation_of_another_engine_stays",
            f"{CLEANING}::test_a_podman_container_without_results_is_not_taken_for_a_leak",
            f"{TREES}[other-engines]",
        ),
    ),
    12: Hazard(
        "several networks, interfaces, dual stack",
        (
            f"{CLEANING}::test_one_reservation_that_may_not_go_keeps_the_others_of_its_id",
            f"{CLEANING}::test_an_id_in_a_network_that_the_pass_leaves_out_stays_whole",
            f"{REMOVAL}::test_one_reservation_that_changed_keeps_the_others_of_its_id",
        ),
    ),
    13: Hazard(
        "finished pods", (f"{EVIDENCE}::TestApi::test_a_finished_pod_counts_only_with_a_ready_sandbox_or_the_runtime_off",)
    ),
    14: Hazard(
        "pods of other namespaces unseen",
        (f"{API}::TestTheList::test_only_this_nodes_pods_are_asked_for", f"{API}::TestFailures::test_403_says_what_is_missing"),
    ),
    15: Hazard(
        "clock jumps, restored images, copied trees",
        (
            f"{CLOCK}::TestOnTheNodeItself::test_after_a_step_every_file_is_young_for_as_long",
            f"{CLOCK}::TestOnTheNodeItself::test_a_step_during_the_pass_ends_it",
            f"{CLEANING}::test_a_ctime_cannot_be_faked_by_an_old_mtime",
            f"{CLEANING}::test_a_file_of_the_future_is_young_even_without_a_floor",
            f"{CLEANING}::test_in_a_tree_with_mounts_in_it_the_names_of_namespaces_count",
        ),
    ),
    16: Hazard(
        "just after boot, sandboxes not restored yet", (f"{CLOCK}::TestOnTheNodeItself::test_after_a_boot_every_file_is_young",)
    ),
    17: Hazard(
        "mass deletion from one bad input",
        (
            f"{CLEANING}::test_at_most_so_many_reservations_go",
            f"{CLEANING}::test_a_limit_is_for_addresses_first",
            f"{RECORDED}::test_another_nodes_sandboxes_condemn_nothing",
        ),
    ),
    18: Hazard(
        "no way back",
        (
            f"{RECORDED}::test_what_was_removed_can_all_be_put_back",
            f"{RESTORE}::test_sigkill_at_any_step_loses_nothing",
            f"{REMOVAL}::test_the_journal_is_synced_before_each_unlink",
        ),
    ),
    19: Hazard(
        "a freed address reused while peers still hold its ARP entry",
        how_it_stands="no worse than by the plugin: its cursor is left alone, so an address comes back only after all others were"
        " given out",
    ),
    20: Hazard(
        "scratch or results of a live sandbox removed",
        (
            f"{CLEANING}::test_scratch_files_of_a_dead_sandbox_go_after_its_reservation_and_before_its_results",
            f"{CLEANING}::test_results_stay_while_a_reservation_of_their_id_remains",
            f"{CLEANING}::test_a_network_left_out_that_is_a_link_still_holds_scratch_files",
            f"{CRIO}::test_where_nobody_tells_the_version_a_crio_keeps_results_and_scratch_files",
            f"{TREES}[scratch]",
            f"{TREES}[results-not-ours-to-take]",
        ),
    ),
    21: Hazard(
        "two cleaners",
        (
            f"{REMOVAL}::test_a_second_pass_is_busy_and_leaves_the_first_ones_report",
            f"{FLEET}::test_a_repeated_message_of_a_sweep_cleans_nothing_twice",
            f"{FLEET}::test_an_expired_message_is_not_run",
            f"{EARLY}::TestTheSameGuards::test_beside_another_pass_it_does_nothing",
        ),
    ),
    22: Hazard(
        "weekly is too slow",
        (
            f"{EARLY}::TestTheSameGuards::test_exactly_the_leaks_go",
            f"{EARLY}::TestWithoutABroker::test_it_is_made_though_there_never_was_one",
            f"{EARLY}::TestWithoutABroker::test_it_is_made_though_the_broker_went_away",
            f"{BESIDE}::TestEarlyPass::test_what_cannot_be_understood_puts_it_off_neither_for_ever_nor_not_at_all",
        ),
    ),
    23: Hazard(
        "modes, read-only mounts, a scan without rights to write",
        (
            f"{REMOVAL}::test_a_read_only_network_is_told_and_nothing_is_announced",
            f"{REMOVAL}::test_what_cannot_be_removed_is_told",
            f"{REMOVAL}::test_a_scan_writes_nothing_at_all",
            f"{BAD_INPUT}::TestDisk::test_a_read_only_directory_is_left_alone",
        ),
    ),
    24: Hazard("masking the real bug", (f"{RECORDED}::test_which_pod_leaked_is_told_from_the_results_cache",)),
    25: Hazard(
        "abuse of the remote trigger",
        (
            f"{FLEET}::test_a_malformed_message_fails_and_does_nothing",
            f"{FLEET}::test_another_nodes_job_fails_and_does_nothing",
            f"{FLEET}::test_a_message_cannot_overrule_the_nodes_own_dry_run",
            f"{FLEET}::test_a_pickled_message_is_refused",
            f"{FLEET}::test_celery_call_refuses_nonsense_in_one_line_and_sends_nothing",
            f"{SIDECAR}::TestTheToken::test_without_it_nothing_is_shown_or_done",
        ),
    ),
}
