%% Returns in_step once this node has applied, for each quorum queue, all that was committed when it began to ask; else
%% the queues that are behind. rabbitmqctl may hand it to a shell in double quotes: no dollar, backtick, quote, backslash.
Local = fun(Name) -> maps:get(last_applied, ra:key_metrics({Name, node()}), -1) end,
Wanted = [{amqqueue:get_name(Queue), Name, maps:get(commit_index, ra:key_metrics(Leader))}
          || Queue <- rabbit_amqqueue:list_by_type(rabbit_quorum_queue),
             {Name, _} = Leader <- [amqqueue:get_pid(Queue)]],
Behind = fun(Some) -> [Entry || {_, Name, Index} = Entry <- Some, Local(Name) < Index] end,
Wait = fun Wait(Some, Tries) ->
           case Behind(Some) of
               [] -> in_step;
               Left when Tries =:= 0 -> [rabbit_misc:rs(Queue) || {Queue, _, _} <- Left];
               Left -> timer:sleep(250), Wait(Left, Tries - 1)
           end
       end,
Wait(Wanted, 40).
