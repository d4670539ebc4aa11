%%% @private
%%% @doc The mirror of the worker registry on this node, and the choice of a worker from it.
%%%
%%% One process, the link, writes the tables, and any process reads them without a call. Choosing a
%%% worker takes two look-ups and one atomic increment, for one worker or ten thousand.
%%%
%%% Tables, owned by {@link esdb_gater_tables}:
%%% <dl>
%%% <dt>`esdb_gater_workers'</dt><dd>`{Store, N, LocalN, Counters, Version}' and the workers
%%%   in places `0..N-1' as `{{Store, I}, Pid}', and those of this node again in places
%%%   `0..LocalN-1' as `{{Store, I, local}, Pid}'. Places have no gaps and no order: when a worker
%%%   leaves, the last one takes its place.</dd>
%%% <dt>`esdb_gater_worker_order'</dt><dd>`{{Store, Seq}, Pid}': the order of registration.</dd>
%%% <dt>`esdb_gater_worker_places'</dt><dd>`{{Store, Pid}, Seq, I, LocalI | none, Since}': the
%%% places
%%%   of a worker in the other two tables, and the time of its registration in Unix
%%%   milliseconds.</dd>
%%% <dt>`esdb_gater_worker_lists'</dt><dd>`{Store, Version, none | [{Node, Pid}]}': the answer to
%%%   `get_workers/1'. Each change takes it out, and the first reader after it puts it back.</dd>
%%% </dl>
%%% A reader that loses a race with the writer finds an empty place and looks again.
%%% @end
-module(esdb_gater_workers).

-export([tables/0, add/2, remove/2, renew/2, reset/1, member/2,
         select/1, select/3, list/1, listed/1, local/1, since/2, stores/0, size/1]).

-define(WORKERS, esdb_gater_workers).
-define(ORDER, esdb_gater_worker_order).
-define(PLACES, esdb_gater_worker_places).
-define(LISTS, esdb_gater_worker_lists).

%% Longer lists are not kept.
-define(MOST_LISTED, 1000).

%% The indices of the counters of a store.
-define(ALL, 1).
-define(LOCAL, 2).

%% @doc Returns the tables to create, as arguments of `ets:new/2'.
-spec tables() -> [{atom(), [term()]}].
tables() ->
    [{?WORKERS, [set, public, named_table, {read_concurrency, true}]},
     {?ORDER, [ordered_set, public, named_table, {read_concurrency, true}]},
     {?PLACES, [set, public, named_table]},
     {?LISTS, [set, public, named_table, {read_concurrency, true}]}].

%% @doc Adds a worker, which becomes the last in the order of registration.
-spec add(StoreId :: atom(), pid()) -> boolean().
add(Store, Pid) ->
    case ets:member(?PLACES, {Store, Pid}) of
        true ->
            false;
        false ->
            {N, LocalN, Counters, Version} = head(Store),
            Seq = erlang:unique_integer([monotonic]),
            true = ets:insert(?ORDER, {{Store, Seq}, Pid}),
            true = ets:insert(?WORKERS, {{Store, N}, Pid}),
            LocalPlace =
                case node(Pid) =:= node() of
                    true ->
                        true = ets:insert(?WORKERS, {{Store, LocalN, local}, Pid}),
                        ok = esdb_gater_lineage:worker_changed(added, Store, Pid),
                        LocalN;
                    false -> none
                end,
            Place = {{Store, Pid}, Seq, N, LocalPlace, erlang:system_time(millisecond)},
            true = ets:insert(?PLACES, Place),
            %% The count is written last, since a reader that sees it must find all places below it
            %% filled.
            put_head(Store, N + 1, grown(LocalN, LocalPlace), Counters, abs(Version) + 1),
            true
    end.

%% @doc Removes a worker.
-spec remove(StoreId :: atom(), pid()) -> boolean().
remove(Store, Pid) ->
    case ets:take(?PLACES, {Store, Pid}) of
        [] ->
            false;
        [{_, Seq, Place, LocalPlace, _}] ->
            {N, LocalN, Counters, Version} = head(Store),
            fill(Store, Place, N - 1, 3, {Store, Place}, {Store, N - 1}),
            LocalN1 =
                case LocalPlace of
                    none ->
                        LocalN;
                    _ ->
                        ok = esdb_gater_lineage:worker_changed(removed, Store, Pid),
                        fill(Store, LocalPlace, LocalN - 1, 4,
                             {Store, LocalPlace, local}, {Store, LocalN - 1, local}),
                        LocalN - 1
                end,
            put_head(Store, N - 1, LocalN1, Counters, abs(Version) + 1),
            true = ets:delete(?WORKERS, {Store, N - 1}),
            case LocalPlace of
                none -> ok;
                _ -> true = ets:delete(?WORKERS, {Store, LocalN1, local})
            end,
            true = ets:delete(?ORDER, {Store, Seq}),
            case N of
                1 -> true = ets:delete(?WORKERS, Store), true = ets:delete(?LISTS, Store);
                _ -> ok
            end,
            true
    end.

%% The last worker takes the place that has become free.
fill(_Store, Last, Last, _Column, _Key, _LastKey) ->
    ok;
fill(Store, Place, _Last, Column, Key, LastKey) ->
    Moved = ets:lookup_element(?WORKERS, LastKey, 2),
    true = ets:insert(?WORKERS, {Key, Moved}),
    true = ets:update_element(?PLACES, {Store, Moved}, {Column, Place}),
    ok.

%% @doc Makes a worker of the mirror the last in the order of registration.
-spec renew(StoreId :: atom(), pid()) -> boolean().
renew(Store, Pid) ->
    case ets:lookup(?PLACES, {Store, Pid}) of
        [{_, Seq, _, _, _}] ->
            Last = erlang:unique_integer([monotonic]),
            reorder(Store, [{{Store, Last}, Pid}], [Seq]),
            true;
        [] ->
            add(Store, Pid)
    end.

%% @doc Replaces the whole registry: missing workers are added and others are removed. A store whose
%% order differs is rebuilt.
-spec reset([{StoreId :: atom(), [pid()]}]) -> ok.
reset(Registry) ->
    New = maps:from_list(Registry),
    lists:foreach(fun(Store) -> reset_store(Store, maps:get(Store, New, [])) end,
                  lists:usort(maps:keys(New) ++ stores())).

reset_store(Store, Pids) ->
    Gone = ordered(Store) -- Pids,
    lists:foreach(fun(Pid) -> remove(Store, Pid) end, Gone),
    lists:foreach(fun(Pid) -> add(Store, Pid) end, Pids),
    case ordered(Store) of
        Pids -> ok;
        _ -> renumber(Store, Pids)
    end.

%% The workers are the same in another order of registration.
renumber(Store, Pids) ->
    Old = [Seq || {{_, Seq}, _} <- rows(Store)],
    reorder(Store, [{{Store, erlang:unique_integer([monotonic])}, Pid} || Pid <- Pids], Old).

%% Writes other sequence numbers for workers that keep their places. During this a reader may meet a
%% worker twice, which a version below 0 shows to list/1.
reorder(Store, Rows, Old) ->
    {N, LocalN, Counters, Version} = head(Store),
    put_head(Store, N, LocalN, Counters, -abs(Version) - 1),
    true = ets:insert(?ORDER, Rows),
    lists:foreach(fun(Seq) -> ets:delete(?ORDER, {Store, Seq}) end, Old),
    lists:foreach(fun({{_, Seq}, Pid}) ->
                      ets:update_element(?PLACES, {Store, Pid}, {2, Seq})
                  end, Rows),
    put_head(Store, N, LocalN, Counters, abs(Version) + 2).

%% @doc Returns whether this worker is in the mirror.
-spec member(StoreId :: atom(), pid()) -> boolean().
member(Store, Pid) ->
    try ets:member(?PLACES, {Store, Pid})
    catch error:badarg -> false
    end.

%% @doc Returns the next worker of a store, each in turn.
-spec select(StoreId :: atom()) -> pid() | none.
select(Store) ->
    try ets:lookup(?WORKERS, Store) of
        [{_, N, _, Counters, _}] when N > 0 -> take(Store, Counters, N);
        _ -> none
    catch
        error:badarg -> none                       % the application is not running
    end.

take(Store, Counters, N) ->
    Place = atomics:add_get(Counters, ?ALL, 1) rem N,
    try ets:lookup_element(?WORKERS, {Store, Place}, 2)
    catch error:badarg -> select(Store)
    end.

%% @doc Returns the next worker of a store that is not in `Failed' (latest first), and local workers
%% first if `Prefer' is `local'. If all workers have failed, returns any but the latest, or the
%% latest if it is the only one.
-spec select(StoreId :: atom(), Prefer :: any | local, Failed :: [pid()]) -> pid() | none.
select(Store, any, []) ->
    select(Store);
select(Store, Prefer, Failed) ->
    try ets:lookup(?WORKERS, Store) of
        [{_, N, LocalN, Counters, _}] when N > 0 ->
            Chosen =
                case Prefer of
                    local when LocalN > 0 -> probe(Store, Counters, ?LOCAL, LocalN, Failed);
                    _ -> all_failed
                end,
            case Chosen of
                all_failed -> probe_all(Store, Counters, N, Failed);
                _ -> Chosen
            end;
        _ ->
            none
    catch
        error:badarg -> none
    end.

probe_all(Store, Counters, N, Failed) ->
    case probe(Store, Counters, ?ALL, N, Failed) of
        %% A place was empty, since workers have left after they were counted.
        all_failed when Failed =:= [] ->
            select(Store);
        all_failed ->
            case probe(Store, Counters, ?ALL, N, [hd(Failed)]) of
                all_failed -> hd(Failed);
                Pid -> Pid
            end;
        Pid ->
            Pid
    end.

%% Neighbouring places hold different workers, so it suffices to examine one more than have failed.
probe(Store, Counters, Slot, N, Failed) ->
    First = atomics:add_get(Counters, Slot, 1),
    probe(Store, Slot, First, N, Failed, min(N, length(Failed) + 1)).

probe(_Store, _Slot, _I, _N, _Failed, 0) ->
    all_failed;
probe(Store, Slot, I, N, Failed, Left) ->
    Key = case Slot of
              ?ALL -> {Store, I rem N};
              ?LOCAL -> {Store, I rem N, local}
          end,
    case ets:lookup(?WORKERS, Key) of
        [{_, Pid}] ->
            case lists:member(Pid, Failed) of
                false -> Pid;
                true -> probe(Store, Slot, I + 1, N, Failed, Left - 1)
            end;
        [] ->
            probe(Store, Slot, I + 1, N, Failed, Left - 1)
    end.

%% @doc Returns all workers of a store with their nodes, in order of registration.
-spec list(StoreId :: atom()) -> [{node(), pid()}].
list(Store) ->
    case listed(Store) of
        {ok, Workers} -> Workers;
        none -> []
    end.

%% @doc Returns the workers of a store as {@link list/1} does if the store is known.
-spec listed(StoreId :: atom()) -> {ok, [{node(), pid()}]} | none.
listed(Store) ->
    try ets:lookup(?LISTS, Store) of
        [{_, _, Workers}] when is_list(Workers) ->
            {ok, Workers};
        [{_, Version, none}] ->
            Workers = [{node(Pid), Pid} || Pid <- consistent(Store, 3)],
            ok = keep_list(Store, Version, Workers),
            {ok, Workers};
        [] ->
            none
    catch
        error:badarg -> none                       % the application is not running
    end.

%% Only if nothing has changed since the version was read. A version below 0 is one that changes.
keep_list(Store, Version, Workers) when Version >= 0, length(Workers) =< ?MOST_LISTED ->
    case esdb_gater_match:exactly(Store, '$1') of
        {Store, []} ->
            Kept = {{{const, Store}, Version, {const, Workers}}},
            _ = ets:select_replace(?LISTS, [{{Store, Version, none}, [], [Kept]}]),
            ok;
        _ ->
            ok
    end;
keep_list(_Store, _Version, _Workers) ->
    ok.

%% @doc Returns the workers of a store on this node, in order of registration.
-spec local(StoreId :: atom()) -> [pid()].
local(Store) ->
    [Pid || {Node, Pid} <- list(Store), Node =:= node()].

consistent(Store, Tries) ->
    try
        Before = version(Store),
        Pids = ordered(Store),
        case version(Store) of
            Before when Before >= 0 -> Pids;
            _ when Tries > 1 -> consistent(Store, Tries - 1);
            _ -> lists:uniq(Pids)
        end
    catch
        error:badarg -> []
    end.

%% @doc Returns the time when this node learned of a worker, in Unix milliseconds.
-spec since(StoreId :: atom(), pid()) -> {ok, integer()} | none.
since(Store, Pid) ->
    try {ok, ets:lookup_element(?PLACES, {Store, Pid}, 5)}
    catch error:badarg -> none
    end.

%% @doc Returns the stores that have workers.
-spec stores() -> [atom()].
stores() ->
    ets:select(?WORKERS, [{{'$1', '_', '_', '_', '_'}, [], ['$1']}]).

%% @doc Returns the number of workers of a store.
-spec size(StoreId :: atom()) -> non_neg_integer().
size(Store) ->
    case ets:lookup(?WORKERS, Store) of
        [{_, N, _, _, _}] -> N;
        [] -> 0
    end.

ordered(Store) ->
    [Pid || {_, Pid} <- rows(Store)].

%% Returns the rows of a store in the order of registration.
rows(Store) ->
    {Exactly, Guards} = esdb_gater_match:exactly(Store, '$1'),
    ets:select(?ORDER, [{{{Exactly, '_'}, '_'}, Guards, ['$_']}]).

version(Store) ->
    case ets:lookup(?WORKERS, Store) of
        [{_, _, _, _, Version}] -> Version;
        [] -> 0
    end.

%% The rotation starts at a random worker, since otherwise many nodes that start together would all
%% begin with the same one.
head(Store) ->
    case ets:lookup(?WORKERS, Store) of
        [{_, N, LocalN, Counters, Version}] ->
            {N, LocalN, Counters, Version};
        [] ->
            Counters = atomics:new(2, [{signed, false}]),
            ok = atomics:put(Counters, ?ALL, rand:uniform(1 bsl 32)),
            ok = atomics:put(Counters, ?LOCAL, rand:uniform(1 bsl 32)),
            {0, 0, Counters, 0}
    end.

put_head(Store, N, LocalN, Counters, Version) ->
    true = ets:insert(?WORKERS, {Store, N, LocalN, Counters, Version}),
    true = ets:insert(?LISTS, {Store, Version, none}),
    ok.

grown(LocalN, none) -> LocalN;
grown(LocalN, _) -> LocalN + 1.
