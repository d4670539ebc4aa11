%%% @private
%%% @doc This node's copy of the worker registry, and the choice of a worker from it.
%%%
%%% Written by one process, the link, and read by everybody without asking a process:
%%% choosing a worker takes two look-ups and one atomic increment, for one worker or ten
%%% thousand.
%%%
%%% Tables, owned by {@link esdb_gater_tables}:
%%% <dl>
%%% <dt>`esdb_gater_workers'</dt><dd>`{Store, N, LocalN, Counters, Version}' and the workers
%%%   in places `0..N-1' as `{{Store, I}, Pid}', those of this node again in places
%%%   `0..LocalN-1' as `{{Store, I, local}, Pid}'. Places have no gaps and no order: a worker
%%%   that leaves gives its place to the last one.</dd>
%%% <dt>`esdb_gater_worker_order'</dt><dd>`{{Store, Seq}, Pid}': order of registration.</dd>
%%% <dt>`esdb_gater_worker_places'</dt><dd>`{{Store, Pid}, Seq, I, LocalI | none, Since}': where a
%%%   worker is in the other two, and when it came, in Unix milliseconds.</dd>
%%% </dl>
%%% A reader that loses a race with the writer finds an empty place and looks again.
%%% @end
-module(esdb_gater_workers).

-export([tables/0, add/2, remove/2, renew/2, reset/1, member/2,
         select/1, select/3, list/1, local/1, since/2, stores/0, size/1]).

-define(WORKERS, esdb_gater_workers).
-define(ORDER, esdb_gater_worker_order).
-define(PLACES, esdb_gater_worker_places).

%% Slots of the counters of a store.
-define(ALL, 1).
-define(LOCAL, 2).

%% @doc The tables to make, as arguments of `ets:new/2'.
-spec tables() -> [{atom(), [term()]}].
tables() ->
    [{?WORKERS, [set, public, named_table, {read_concurrency, true}]},
     {?ORDER, [ordered_set, public, named_table, {read_concurrency, true}]},
     {?PLACES, [set, public, named_table]}].

%% @doc A worker is registered; it comes last in the order of registration.
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
            %% Last: places below the count must be filled when a reader sees the count.
            put_head(Store, N + 1, grown(LocalN, LocalPlace), Counters, abs(Version) + 1),
            true
    end.

%% @doc A worker is gone.
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
                1 -> true = ets:delete(?WORKERS, Store);
                _ -> ok
            end,
            true
    end.

%% The last one takes the place that has become free.
fill(_Store, Last, Last, _Column, _Key, _LastKey) ->
    ok;
fill(Store, Place, _Last, Column, Key, LastKey) ->
    Moved = ets:lookup_element(?WORKERS, LastKey, 2),
    true = ets:insert(?WORKERS, {Key, Moved}),
    true = ets:update_element(?PLACES, {Store, Moved}, {Column, Place}),
    ok.

%% @doc A worker in the copy becomes the last in the order of registration.
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

%% @doc The whole registry anew: what is not in it goes, what is missing comes. A store whose
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

%% Same workers, other order of registration.
renumber(Store, Pids) ->
    Old = [Seq || {{_, Seq}, _} <- rows(Store)],
    reorder(Store, [{{Store, erlang:unique_integer([monotonic])}, Pid} || Pid <- Pids], Old).

%% Other numbers for workers that keep their places. Meanwhile a reader may meet one of them twice;
%% a version below 0 tells list/1.
reorder(Store, Rows, Old) ->
    {N, LocalN, Counters, Version} = head(Store),
    put_head(Store, N, LocalN, Counters, -abs(Version) - 1),
    true = ets:insert(?ORDER, Rows),
    lists:foreach(fun(Seq) -> ets:delete(?ORDER, {Store, Seq}) end, Old),
    lists:foreach(fun({{_, Seq}, Pid}) ->
                      ets:update_element(?PLACES, {Store, Pid}, {2, Seq})
                  end, Rows),
    put_head(Store, N, LocalN, Counters, abs(Version) + 2).

%% @doc Whether this worker is in the copy.
-spec member(StoreId :: atom(), pid()) -> boolean().
member(Store, Pid) ->
    try ets:member(?PLACES, {Store, Pid})
    catch error:badarg -> false
    end.

%% @doc The next worker of a store, each in turn.
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

%% @doc The next worker of a store that is not in `Failed' (latest first), local ones first
%% if `Prefer' says so. When all have failed, any but the latest; when that is the only one,
%% that one.
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
        %% A place was empty: workers have left since they were counted.
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

%% Neighbouring places hold different workers, so one more than have failed are enough.
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

%% @doc All workers of a store with their nodes, in order of registration.
-spec list(StoreId :: atom()) -> [{node(), pid()}].
list(Store) ->
    [{node(Pid), Pid} || Pid <- consistent(Store, 3)].

%% @doc The workers of a store on this node, in order of registration.
-spec local(StoreId :: atom()) -> [pid()].
local(Store) ->
    [Pid || Pid <- consistent(Store, 3), node(Pid) =:= node()].

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

%% @doc When this node learned of a worker, in Unix milliseconds.
-spec since(StoreId :: atom(), pid()) -> {ok, integer()} | none.
since(Store, Pid) ->
    try {ok, ets:lookup_element(?PLACES, {Store, Pid}, 5)}
    catch error:badarg -> none
    end.

%% @doc The stores that have workers.
-spec stores() -> [atom()].
stores() ->
    ets:select(?WORKERS, [{{'$1', '_', '_', '_', '_'}, [], ['$1']}]).

%% @doc How many workers a store has.
-spec size(StoreId :: atom()) -> non_neg_integer().
size(Store) ->
    case ets:lookup(?WORKERS, Store) of
        [{_, N, _, _, _}] -> N;
        [] -> 0
    end.

ordered(Store) ->
    [Pid || {_, Pid} <- rows(Store)].

%% The rows of a store in the order of registration.
rows(Store) ->
    {Exactly, Guards} = esdb_gater_match:exactly(Store, '$1'),
    ets:select(?ORDER, [{{{Exactly, '_'}, '_'}, Guards, ['$_']}]).

version(Store) ->
    case ets:lookup(?WORKERS, Store) of
        [{_, _, _, _, Version}] -> Version;
        [] -> 0
    end.

%% Rotation starts at a random worker, or many nodes that start together would all begin
%% with the same one.
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
    ok.

grown(LocalN, none) -> LocalN;
grown(LocalN, _) -> LocalN + 1.
