%%% @private
%%% @doc The rules by which this node's mirror of the registry ({@link esdb_gater_workers}) follows
%%% the messages of a gateway.
%%%
%%% A gateway that has just taken over may not know every worker yet. Workers on this node, and on
%%% nodes that are connected to it, stay in the mirror in the meantime, so that look-ups and calls
%%% find them. They are *unconfirmed* until the gateway names them or until {@link settle/1}.
%%% @end
-module(esdb_gater_mirror).

-export([reset/2, added/3, removed/3, repeated/2, ended/2, settle/1]).

-export_type([unconfirmed/0]).

-type unconfirmed() :: #{{StoreId :: atom(), pid()} => []}.

%% @doc Replaces the registry by that of a gateway that was used before (`same') or was not
%% (`other'). Returns the desired registrations that are missing in it and are to be made there.
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

%% @doc Handles the registration of a worker.
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

%% @doc Handles the end of a registration.
-spec removed(StoreId :: atom(), pid(), unconfirmed()) -> unconfirmed().
removed(Store, Pid, Unconfirmed) ->
    _ = esdb_gater_workers:remove(Store, Pid),
    ok = case node(Pid) =:= node() of
             %% The process has ended or was unregistered deliberately, so it is no longer desired.
             true -> esdb_gater_desired:remove(Store, Pid);
             %% Otherwise its node may be out of reach. Both the gateway and this node remember the
             %% registration, but only the gateway can know whether it should return.
             false -> esdb_gater_desired:mark(Store, Pid, faded)
         end,
    maps:remove({Store, Pid}, Unconfirmed).

%% @doc Handles a repeated registration that the gateway has accepted. If the gateway reaches the
%% worker, it has offered it before this answer; otherwise the registration is like one that was
%% removed because its node is out of reach.
-spec repeated(StoreId :: atom(), pid()) -> ok.
repeated(Store, Pid) ->
    case node(Pid) =:= node() orelse esdb_gater_workers:member(Store, Pid) of
        true -> ok;
        false -> esdb_gater_desired:mark(Store, Pid, faded)
    end.

%% @doc Handles the end of a process that was registered through this node. A process that is out of
%% reach is not dead, and the gateway may still reach it.
-spec ended(pid(), Reason :: term()) -> ok.
ended(_Pid, noconnection) ->
    ok;
ended(Pid, _Reason) ->
    lists:foreach(fun(Store) -> esdb_gater_workers:remove(Store, Pid) end,
                  esdb_gater_desired:remove_process(Pid)).

%% @doc Removes the workers that are still unconfirmed.
-spec settle(unconfirmed()) -> ok.
settle(Unconfirmed) ->
    lists:foreach(fun({Store, Pid}) -> esdb_gater_workers:remove(Store, Pid) end,
                  maps:keys(Unconfirmed)).

%% A registration that was withdrawn without a gateway stays withdrawn until this gateway is told.
offered(Store, Pid) ->
    plausible(Pid) andalso not esdb_gater_withdrawals:member(Store, Pid).

%% The gateway may not have learnt yet that a process of this node is dead.
plausible(Pid) ->
    node(Pid) =/= node() orelse is_process_alive(Pid).
