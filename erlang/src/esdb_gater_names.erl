%%% @private
%%% @doc The names of processes that outlive their supervisor.
%%%
%%% A supervisor that is killed does not end its children. They receive its exit signal and take
%%% some time to end, such as the process that has the gateway program drain. Until then their names
%%% are taken, and the next supervisor must not start other processes beside them.
-module(esdb_gater_names).

-export([await_free/1]).

-define(TIMEOUT_MS, 12000).            % a drain takes 10 s at most

%% @doc Waits until no process of an earlier supervisor has any of these names. Processes that do
%% not end in time are killed.
-spec await_free([atom()]) -> ok.
await_free(Names) ->
    Deadline = erlang:monotonic_time(millisecond) + ?TIMEOUT_MS,
    Monitors = [{Pid, erlang:monitor(process, Pid)} || Pid <- lists:filtermap(fun orphan/1, Names)],
    lists:foreach(fun(Monitor) -> await_end(Monitor, Deadline) end, Monitors).

%% The name may also belong to a process of another application.
orphan(Name) ->
    case whereis(Name) of
        undefined ->
            false;
        Pid ->
            case process_info(Pid, dictionary) of
                {dictionary, Entries} -> is_ours(Entries) andalso {true, Pid};
                undefined -> {true, Pid}
            end
    end.

is_ours(Entries) ->
    case proplists:get_value('$initial_call', Entries) of
        {Module, _, _} -> lists:prefix("esdb_", atom_to_list(Module));
        _ -> false
    end.

await_end({Pid, Monitor}, Deadline) ->
    receive
        {'DOWN', Monitor, process, _, _} -> ok
    after max(0, Deadline - erlang:monotonic_time(millisecond)) ->
        true = exit(Pid, kill),
        receive {'DOWN', Monitor, process, _, _} -> ok end
    end.
