%%% @private
%%% @doc How this node's copy of the registry ({@link esdb_gater_workers}) follows what a
%%% gateway tells.
%%%
%%% A gateway that has just taken over may not have been told of every worker yet. Those of
%%% nodes that are connected to this one, and of this node, stay in the copy meanwhile, so that
%%% look-ups and calls do not miss them: they are *unconfirmed*, until the gateway names them
%%% or until {@link settle/1}.
%%% @end
-module(esdb_gater_mirror).

-export([reset/2, added/3, removed/3, repeated/2, ended/2, settle/1]).

-export_type([unconfirmed/0]).

-type unconfirmed() :: #{{StoreId :: atom(), pid()} => []}.

%% @doc The whole registry, of a gateway that was used before (`same') or that was not
%% (`other'). Gives what is wanted and not in it, to be registered there.
-spec reset([{StoreId :: atom(), [pid()]}], same | other) ->
          {Missing :: [{StoreId :: atom(), pid()}], unconfirmed()}.
reset(Registry, Gateway) ->
    Offered = maps:from_list([{Store, [P || P <- Pids, offered(Store, P)]}
                              || {Store, Pids} <- Registry]),
    Known = maps:from_list([{{Store, Pid}, []} || {Store, Pids} <- maps:to_list(Offered),
                                                  Pid <- Pids]),
    Near = case Gateway of
               same -> #{};
               other -> maps:from_list([{Node, []} || Node <- [node() | nodes()]])
           end,
    Kept = [{Store, Pid} || map_size(Near) > 0, Store <- esdb_gater_workers:stores(),
                            {Node, Pid} <- esdb_gater_workers:list(Store), is_map_key(Node, Near),
                            not is_map_key({Store, Pid}, Known), plausible(Pid)],
    All = lists:foldr(fun({Store, Pid}, Acc) -> Acc#{Store => [Pid | maps:get(Store, Acc, [])]} end,
                      #{}, Kept),
    ok = esdb_gater_workers:reset(maps:to_list(merge(Offered, All))),
    ok = lists:foreach(fun({Store, Pid}) -> esdb_gater_desired:mark(Store, Pid, active) end,
                       [Faded || Faded <- esdb_gater_desired:faded(), is_map_key(Faded, Known)]),
    Missing = [Wanted || Wanted <- esdb_gater_desired:active(), not is_map_key(Wanted, Known)],
    {Missing, maps:from_list([{Key, []} || Key <- Kept])}.

merge(Offered, Kept) ->
    maps:fold(fun(Store, Pids, Acc) -> Acc#{Store => maps:get(Store, Acc, []) ++ Pids} end,
              Offered, Kept).

%% @doc A worker has been registered.
-spec added(StoreId :: atom(), pid(), unconfirmed()) -> unconfirmed().
added(Store, Pid, Unconfirmed) ->
    Key = {Store, Pid},
    case offered(Store, Pid) of
        true ->
            _ = case Unconfirmed of
                    #{Key := _} -> esdb_gater_workers:renew(Store, Pid);
                    _ -> esdb_gater_workers:add(Store, Pid)
                end,
            esdb_gater_desired:mark(Store, Pid, active);
        false ->
            ok
    end,
    maps:remove(Key, Unconfirmed).

%% @doc A worker is not registered any more.
-spec removed(StoreId :: atom(), pid(), unconfirmed()) -> unconfirmed().
removed(Store, Pid, Unconfirmed) ->
    _ = esdb_gater_workers:remove(Store, Pid),
    ok = case node(Pid) =:= node() of
             %% It has ended, or somebody has unregistered it: nobody wants it back.
             true -> esdb_gater_desired:remove(Store, Pid);
             %% Or its node is out of reach. The gateway remembers it, and so do we, but only
             %% the gateway can know whether it should come back.
             false -> esdb_gater_desired:mark(Store, Pid, faded)
         end,
    maps:remove({Store, Pid}, Unconfirmed).

%% @doc A registration was repeated, and the gateway has taken it. One that reaches the worker has
%% offered it before it answered; else it is as one that was removed because its node is out of
%% reach.
-spec repeated(StoreId :: atom(), pid()) -> ok.
repeated(Store, Pid) ->
    case node(Pid) =:= node() orelse esdb_gater_workers:member(Store, Pid) of
        true -> ok;
        false -> esdb_gater_desired:mark(Store, Pid, faded)
    end.

%% @doc A process that was registered through this node has ended. Out of reach is not dead; the
%% gateway may still reach it.
-spec ended(pid(), Reason :: term()) -> ok.
ended(_Pid, noconnection) ->
    ok;
ended(Pid, _Reason) ->
    lists:foreach(fun(Store) -> esdb_gater_workers:remove(Store, Pid) end,
                  esdb_gater_desired:remove_process(Pid)).

%% @doc Who has not been named by now is not there.
-spec settle(unconfirmed()) -> ok.
settle(Unconfirmed) ->
    lists:foreach(fun({Store, Pid}) -> esdb_gater_workers:remove(Store, Pid) end,
                  maps:keys(Unconfirmed)).

%% What was taken back while there was no gateway stays so until this one has been told.
offered(Store, Pid) ->
    plausible(Pid) andalso not esdb_gater_withdrawals:member(Store, Pid).

%% A dead process of this node may still be on its way through the gateway.
plausible(Pid) ->
    node(Pid) =/= node() orelse is_process_alive(Pid).
